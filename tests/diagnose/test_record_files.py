"""The command's files are those of its record, and what is stale is found."""

import json
from pathlib import Path

from bench.cli.app import main
from bench.diagnose import record_files


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["diagnose", *arguments])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_the_command_writes_a_record_and_check_finds_what_is_stale(
    record, pair, folder, tmp_path, capsys, three_parts
):
    flags = [
        "--pair", pair, "--k", "4", "--steps", "2", "--prompts-per-step", "4",
        "--max-new-tokens", "6", "--responses", "12", "--positions", "10", "--k-sweep", "2",
        "--k-sweep", "4", "--draws", "100", "--keeps", "0.1", "--keeps", "0.3", "--progress", "off",
        "--checkpoint-every", "1", "--device", "cpu",
        "--runs-dir", str(folder / "runs"), "--out", str(tmp_path),
    ]  # fmt: skip
    code, out, _ = call(capsys, *flags, "--json")
    assert code == 0 and json.loads(out) == record
    place = tmp_path / Path(pair).name
    assert record_files.read_record(place / "diagnostic.json") == record
    check = ["--check", "--out", str(tmp_path)]
    assert call(capsys, *check)[0] == 0
    (place / "diagnostic.md").write_text("by hand")
    code, _, error = call(capsys, *check)
    assert code == 1 and "diagnostic.md" in error
    code, out, _ = call(capsys, *flags)
    assert code == 0 and record["verdicts"][0]["line"].split(":")[0] in " ".join(out.split())
    assert call(capsys, *check)[0] == 0
    assert call(capsys, "--check", "--out", str(tmp_path / "none"))[0] == 1


def test_the_committed_records_give_the_committed_pages_and_figures(capsys):
    root = Path(__file__).parents[2] / "results" / "diagnostic"
    assert call(capsys, "--check", "--out", str(root))[0] == 0
