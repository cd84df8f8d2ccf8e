"""`bench data`: what becomes of a prompt file."""

import json

from command import call
from small_pair import pair_folder


def test_data_check_counts_what_becomes_of_a_prompt_file(capsys, tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [("2 + 2 =", "4"), ("2 + 2 =", "4"), ("2 + 2 =", "5"), ("3 + 3 =", "6")]
    file.write_text("".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in rows))
    flags = ("--prompts", file, "--pair", pair_folder(), "--preset", "paper")
    code, out, _ = call(capsys, "data", "check", *flags, "--json")
    found = json.loads(out)
    assert code == 0
    assert {name: found[name] for name in ("rows", "repeated", "contradicted", "kept")} == {
        "rows": 4, "repeated": 2, "contradicted": 1, "kept": 2,
    }  # fmt: skip
    code, out, _ = call(capsys, "data", "check", *flags)
    assert code == 0 and "2 left out; 1 problems repeat with another answer" in out
    code, _, err = call(capsys, "data", "check", "--preset", "paper")
    assert code == 2 and "prompts:" in err
