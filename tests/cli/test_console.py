"""What strangers wrote, on a terminal and in a page: text, and nothing else."""

import io

import pytest
from command import call
from rich.console import Console

from bench.cli.console import escape, printable
from bench.tables.sheet import Sheet, _markdown


def test_a_text_cannot_steer_the_terminal():
    assert printable("a\x1b[31mb\x07c\x9bd\u202ee") == r"a\x1b[31mb\x07c\x9bd\x202ee"
    assert printable("ordinary: é ∆ 试\n\t") == "ordinary: é ∆ 试\n\t"


@pytest.mark.parametrize("text", ["[bold]x", "[/bold]", "[red]", "\\[x]", "a\\", "[link=http://x]"])
def test_a_text_is_no_markup(text):
    out = io.StringIO()
    Console(file=out, width=200).print(f"[bold]{escape(text)}[/bold]", highlight=False)
    assert out.getvalue() == text + "\n"


def test_an_error_shows_what_was_typed_and_runs_none_of_it(capsys):
    code, out, err = call(capsys, "run", "--selector", "a\x1b[31mb\nc[/bold]")
    assert (code, out) == (2, "") and "\x1b" not in err and len(err.splitlines()) == 1


def test_a_rule_that_is_shown_may_be_called_and_described_as_it_likes(tmp_path, capsys):
    rule = tmp_path / "rules.py"
    rule.write_text(
        "from bench import selector\n\n\n@selector('own')\ndef own(signals):\n"
        "    '''Keep [/bold] \\x1b[31m everything.\n\n    Source: [link=x]mine[/].\n    '''\n"
        "    return signals.uniform_BT\n"
    )
    code, out, err = call(capsys, "selectors", "show", f"{rule}:own")
    assert (code, err) == (0, "") and "[/bold]" in out and "\x1b" not in out


def test_a_page_holds_no_html_no_link_and_no_line_of_a_strangers():
    rows = (("<script>alert(1)</script>", "[x](http://y)"), ("a\n| b |", "c|d"))
    page = _markdown(Sheet("title <b>\n# other", ("name", "value"), rows, ("note <i>",)))
    assert "<" not in page and "](" not in page
    assert len(page.strip().split("\n")) == 8 and "a \\| b \\|" in page and "c\\|d" in page
