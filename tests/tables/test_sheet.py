"""Sheets in LaTeX: escaped, plain ASCII."""

from planted_rows import PUBLISHED, planted, tables_of

from bench.tables import pages, sheet


def test_latex_is_escaped_plain_ascii():
    made = planted(2, keeps=(0.05,), rules={"a_b%c#d": 0.05})
    latex = pages.documents(tables_of(made), PUBLISHED)["leaderboard.tex"].decode()
    assert latex.isascii()
    assert r"a\_b\%c\#d & 0.05 & 2" in latex and r"tiny\_math" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 4
    for line in latex.split("\n")[1:]:
        assert "%" not in line.replace(r"\%", "").removesuffix("%"), line
    assert sheet.latex_text("x_1 & {y} $z ~^\\") == (
        r"x\_1 \& \{y\} \$z \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
