"""bench compare: two checkpoints on the same items, and what is refused."""

import json

import pytest
from command import call
from planted_rows import row, text
from scipy import stats

from bench.core.errors import ConfigError
from bench.core.records import RunFolder, RunRecord, find_run

ONE, OTHER = [1.0] * 9 + [0.0] + [1.0] * 5, [0.0] * 9 + [1.0] + [1.0] * 5


def made(selector, seed, scores, **fields):
    """A row with these scores of its trained student."""
    found = row(selector, 0.05, seed, items=len(scores), **fields)
    for task in found["items"]["trained"]:
        found["items"]["trained"][task] = scores
    return found


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two runs that differ on ten items, in results/ and in runs/; their ids."""
    monkeypatch.chdir(tmp_path)
    rows = [made("teachability", 0, ONE), made("entropy", 1, OTHER)]
    for folder, found in zip(("results", "runs"), rows, strict=True):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.jsonl").write_text(text([found]))
    return [found["run_id"] for found in rows]


def test_two_checkpoints_are_compared_item_by_item(capsys, world):
    code, out, err = call(capsys, "compare", *world, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["runs"] == world and "not two methods" in found["note"]
    (of,) = found["tasks"].values()
    assert (of["items"], of["better"], of["worse"]) == (15, 9, 1)
    assert of["accuracy"] == pytest.approx([14 / 15, 6 / 15])
    assert of["difference"] == pytest.approx(8 / 15)
    interval = stats.ttest_rel(ONE, OTHER).confidence_interval(0.95)
    assert of["ci95"] == pytest.approx(list(interval))
    assert of["mcnemar_p"] == pytest.approx(2 * (1 + 10) / 2**10)
    swapped = json.loads(call(capsys, "compare", *world[::-1], "--json")[1])["tasks"]["tiny_math"]
    assert (swapped["better"], swapped["worse"]) == (1, 9)
    assert swapped["difference"] == -of["difference"]


def test_a_person_reads_a_line_a_task_and_what_it_does_not_show(capsys, world):
    code, out, _ = call(capsys, "compare", *world, "--task", "tiny_math")
    told = " ".join(out.split())
    assert code == 0 and world[0] in told and world[1] in told
    assert "tiny_math │ 15 │ 93.3 │ 40.0 │ +53.3 (+" in told and "│ 9 │ 1 │ 0.021" in told
    assert "two checkpoints and not two methods" in told


def test_graded_scores_have_no_mcnemar_test(capsys, tmp_path):
    rows = [made("entropy", seed, [0.25, 0.5, first]) for seed, first in ((0, 1.0), (1, 0.75))]
    (tmp_path / "rows.jsonl").write_text(text(rows))
    flags = ("--rows", tmp_path / "rows.jsonl", "--json")
    code, out, _ = call(capsys, "compare", *(r["run_id"] for r in rows), *flags)
    assert code == 0 and json.loads(out)["tasks"]["tiny_math"]["mcnemar_p"] is None


def refusal(capsys, *arguments):
    code, out, err = call(capsys, "compare", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    return err


def test_what_does_not_compare_is_refused(capsys, world, tmp_path, monkeypatch):
    one, other = world
    assert f"no run 'x{one}' among 2 rows; did you mean '{one}'?" in refusal(
        capsys, f"x{one}", other
    )
    assert "is run_a: name two runs" in refusal(capsys, one, one)
    assert "task: unknown name 'tiny_maths'" in refusal(capsys, one, other, "--task", "tiny_maths")
    more = [made("entropy", 3, ONE[:-1]), made("entropy", 4, ONE, task="other")]
    (tmp_path / "runs" / "rows.jsonl").write_text(text(more))
    short, elsewhere = (found["run_id"] for found in more)
    message = refusal(capsys, one, short)
    assert f"different numbers of items: '{one}' 15, '{short}' 14" in message
    assert "no task in common" in refusal(capsys, one, elsewhere)
    monkeypatch.chdir(tmp_path / "runs")
    assert "--rows names a file of rows" in refusal(capsys, one, other)


def test_a_run_goes_by_its_hash_or_its_folder_too(capsys, world, tmp_path):
    of_ids = json.loads(call(capsys, "compare", *world, "--json")[1])
    hashes = [run_id.rpartition("-")[2] for run_id in world]
    assert json.loads(call(capsys, "compare", *hashes, "--json")[1]) == of_ids
    folders = []
    for found in (made("teachability", 0, ONE), made("entropy", 1, OTHER)):
        folder = RunFolder(tmp_path / "elsewhere" / found["run_id"])
        folder.create(found["experiment"], {})
        items = {
            who: {task: {"score_I": scores} for task, scores in of.items()}
            for who, of in found.pop("items").items()
        }
        folder.write_record(RunRecord.model_validate(found), items)
        folders.append(folder.path)
    for named in (folders, [folders[0], world[1]], [world[0], hashes[1]]):
        assert json.loads(call(capsys, "compare", *named, "--json")[1]) == of_ids
    assert "is run_a: name two runs" in refusal(capsys, folders[0], folders[0])
    for place in ("results", "runs"):  # two folders need no rows
        (tmp_path / place / "rows.jsonl").unlink()
    assert json.loads(call(capsys, "compare", *folders, "--json")[1]) == of_ids


def test_an_id_is_of_the_rows_that_are_named_and_not_of_a_folder(capsys, world, tmp_path):
    rows = tmp_path / "named.jsonl"
    rows.write_text(text([made("teachability", 0, ONE), made("entropy", 1, ONE)]))
    for run_id in world:
        RunFolder(tmp_path / "runs" / run_id).create({}, {})
        (tmp_path / "runs" / run_id / "record.json").write_text("{}")
    found = json.loads(call(capsys, "compare", *world, "--rows", rows, "--json")[1])
    assert found["tasks"]["tiny_math"]["difference"] == 0


def test_a_hash_of_several_runs_is_refused(tmp_path):
    for name in ("a-0123abcd", "b-0123abcd", "c-89abcdef"):
        (tmp_path / name).mkdir()
    assert find_run("89abcdef", tmp_path) == tmp_path / "c-89abcdef"
    assert find_run("0123abce", tmp_path) is None and find_run("abcdef", tmp_path) is None
    with pytest.raises(ConfigError, match="a-0123abcd, b-0123abcd"):
        find_run("0123abcd", tmp_path)
