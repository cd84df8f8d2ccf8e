"""The command's files are those of its record, and what is stale is found."""

import json
from pathlib import Path

import pytest

from bench.cli.app import main
from bench.core.errors import ConfigError
from bench.diagnose import record_files, run_diagnostic
from bench.diagnose.diagnosis import Diagnosis


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


def planted_record(folder, **values):
    """A folder with a record of 300 prompts and three seeds, and its bytes."""
    folder.mkdir(parents=True)
    record = {"schema_version": 1, "pair": "tiny-qwen3", "update": "train", "n_prompts": 300,
              "update_seeds": [0, 1, 2], **values}  # fmt: skip
    (folder / "diagnostic.json").write_text(json.dumps(record))
    return (folder / "diagnostic.json").read_bytes()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--responses", "12"), "responses: 12 prompts are fewer than 300 of the record in"),
        (("--samples-per-prompt", "3"), "responses: 100 prompts are fewer than 300"),
        (("--update-seeds", "0"), "update_seeds: 1 are fewer than 3"),
        (
            ("--responses", "12", "--update-seeds", "0", "--update-seeds", "4"),
            "responses: 12 prompts are fewer than 300; update_seeds: 2 are fewer than 3",
        ),
    ],
)
def test_a_record_of_more_is_not_replaced_and_nothing_is_measured(
    capsys, tmp_path, monkeypatch, flags, told
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_diagnostic, "diagnose", lambda *_: pytest.fail("measured"))
    for out, folder in (((), "runs/diagnostic"), (("--out", "published"), "published")):
        before = planted_record(tmp_path / folder / "tiny-qwen3")
        code, _, error = call(capsys, "--pair", "tiny-qwen3", *flags, *out)
        assert code == 2 and f"bench: error: {told}" in error and "--replace writes over" in error
        assert (tmp_path / folder / "tiny-qwen3" / "diagnostic.json").read_bytes() == before


def test_a_record_of_another_pair_or_update_is_not_replaced(tmp_path):
    folder = tmp_path / "tiny-qwen3"
    planted_record(folder)
    record_files.check_replaces(folder, "tiny-qwen3", Diagnosis())
    record_files.check_replaces(folder, str(Path("tiny-qwen3").resolve()), Diagnosis())
    record_files.check_replaces(tmp_path / "none", "tiny-qwen3", Diagnosis(responses=2))
    with pytest.raises(ConfigError, match=r"pair: 'other/tiny-qwen3' is not 'tiny-qwen3' of the"):
        record_files.check_replaces(folder, "other/tiny-qwen3", Diagnosis())
    with pytest.raises(ConfigError, match="update_seeds: 2 are fewer than 3; update: 'run:a,b' is"):
        record_files.check_replaces(folder, "tiny-qwen3", Diagnosis(update="run:a,b"))


def test_a_record_is_replaced_when_told_and_records_go_into_the_runs_folder(
    record, pair, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_diagnostic, "diagnose", lambda *_: record)
    flags = ("--pair", pair, "--responses", "12", "--runs-dir", "mine")
    place = tmp_path / "mine" / "diagnostic" / Path(pair).name
    planted_record(place, pair=pair)
    assert call(capsys, *flags)[0] == 2
    assert call(capsys, *flags, "--replace")[0] == 0
    assert record_files.read_record(place / "diagnostic.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert call(capsys, *flags)[0] == 0
