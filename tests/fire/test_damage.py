"""Damage to every file that is read: made good and said, or refused in one line, never another
result without a word."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from fire_share import drawn
from forks import command, forked, results, run_command
from small_pair import pair_folder

from bench.core.sums import sums_of, write_sums

Damage = Callable[[bytes], bytes | None]


def _bit(content: bytes) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[random.Random(len(content)).randrange(len(changed))] ^= 1
    return bytes(changed)


def _digit(content: bytes) -> bytes:
    """The first digit after the middle is another: still JSON, another number."""
    for place in range(len(content) // 2, len(content)):
        if chr(content[place]).isdigit():
            other = str((int(chr(content[place])) + 1) % 10).encode()
            return content[:place] + other + content[place + 1 :]
    return _bit(content)


def _twice(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[:1], *lines]) if lines else content


DAMAGE: dict[str, Damage] = {
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "deleted": lambda content: None,
    "one bit": _bit,
    "one digit": _digit,
    "garbage line": lambda content: content + b"\x00garbage\n",
    "duplicate line": _twice,
    "other version": lambda content: (
        content.replace(b'"schema_version": 1', b'"schema_version": 99')
        .replace(b'"schema_version":1', b'"schema_version":99')
        .replace(b'"step":2', b'"step":7')
    ),
}


@dataclass(frozen=True)
class Scene:
    """A folder as it is, a command that reads it, and what the command gives."""

    make: Callable[[Path], None]
    command: Callable[[Path], list]
    gives: Callable[[Path, str], object]
    files: tuple[str, ...]
    """Globs of what the command reads."""
    ignored: frozenset[str] = field(default_factory=frozenset)
    """Names of files whose damage may change nothing, since nobody reads them."""


def finished(folder: Path) -> None:
    assert forked(command(*run_command(folder, shadow="random"))).code == 0


def stopped(folder: Path) -> None:
    """As a kill leaves it after step 3 of 3: no record, two checkpoints, a log."""
    finished(folder)
    for record in folder.glob("runs/*/record.json"):
        record.unlink()
        shutil.rmtree(record.parent / "model")
        (record.parent / "sums.json").unlink()
        (record.parent / "evaluations.json").unlink()
    (folder / "runs" / "rows.jsonl").unlink()


def with_own_pair(folder: Path) -> None:
    shutil.copytree(pair_folder(), folder / "pair")
    models = [f for side in ("student", "teacher") for f in (folder / "pair" / side).rglob("*")]
    write_sums(folder / "pair", sums_of(folder / "pair", filter(Path.is_file, models)))
    finished(folder)


def run_id(folder: Path) -> str:
    return next(folder.glob("runs/*/log.txt")).parent.name


def _numbers(folder: Path, out: str) -> object:
    return json.loads(out[out.index("{") :])["scores"]


def again(folder: Path) -> list:
    return run_command(folder, shadow="random")


def in_results(folder: Path, out: str) -> object:
    found = results(folder / "runs")
    shadow = next(folder.glob("runs/*/shadow.jsonl")).read_text()
    lines = [json.loads(line) for line in shadow.split("\n")[:-1]]
    return found, [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


SCENES = {
    "a stopped run goes on": Scene(
        stopped, again, in_results,
        ("runs/*/metrics.jsonl", "runs/*/shadow.jsonl", "runs/*/experiment.json",
         "runs/*/checkpoints/*/*", "runs/baselines/*.json"),
    ),
    "a finished run is shown": Scene(
        finished, again, lambda folder, out: set(results(folder / "runs")["rows"]),
        ("runs/*/record.json", "runs/*/evaluations.json", "runs/*/sums.json", "runs/rows.jsonl"),
    ),
    "a run is scored again": Scene(
        finished,
        lambda folder: ["eval", run_id(folder), "--runs-dir", folder / "runs", "--device", "cpu",
                        "--progress", "off", "--json"],
        _numbers,
        ("runs/*/model/*", "runs/*/experiment.json"),
    ),
    "a pair is scored": Scene(
        with_own_pair,
        lambda folder: ["eval", folder / "pair" / "student", "--items", 8, "--max-new-tokens", 8,
                        "--tasks", "tiny_math", "--device", "cpu", "--progress", "off", "--json"],
        _numbers,
        ("pair/student/*",),
    ),
    "rows are compared": Scene(
        finished,
        lambda folder: ["leaderboard", folder / "runs" / "rows.jsonl", "--out", folder / "out"],
        lambda folder, out: (folder / "out" / "leaderboard.csv").read_bytes(),
        ("runs/rows.jsonl",),
    ),
    "a shadow panel is read": Scene(
        finished,
        lambda folder: ["overlap", run_id(folder), "--runs-dir", folder / "runs", "--json"],
        lambda folder, out: {k: v for k, v in json.loads(out).items() if k != "figures"},
        ("runs/*/shadow.jsonl",),
    ),
}  # fmt: skip


@cache
def scene(name: str) -> tuple[Path, object]:
    """The scene as made, and what its command gives in peace."""
    folder = Path(mkdtemp(prefix="damage-")) / "scene"
    folder.mkdir()
    SCENES[name].make(folder)
    copy = folder.with_name("peace")
    shutil.copytree(folder, copy, symlinks=True)
    ended = forked(command(*SCENES[name].command(copy)))
    assert ended.code == 0, (name, ended.err)
    return folder, SCENES[name].gives(copy, ended.out)


def cases() -> list[tuple[str, str, str]]:
    found = []
    for name, of_scene in SCENES.items():
        folder, _ = scene(name)
        files = sorted({file for glob in of_scene.files for file in folder.glob(glob)})
        assert files, name
        found += [
            (name, str(file.relative_to(folder)), how)
            for file in files
            if file.is_file() and file.name not in of_scene.ignored
            for how in DAMAGE
        ]
    return found


def test_damage_is_made_good_or_refused_and_never_another_result(tmp_path, counted):
    every = cases()
    assert len(every) > 300
    wrong = []
    for name, file, how in drawn(every, len(every) // 10, "damage"):
        folder, expected = scene(name)
        place = tmp_path / "here"
        shutil.copytree(folder, place, symlinks=True)
        before = (place / file).read_bytes()
        after = DAMAGE[how](before)
        if after is None:
            (place / file).unlink()
        else:
            (place / file).write_bytes(after)
        ended = forked(command(*SCENES[name].command(place)))
        if ended.code == 0:
            found = SCENES[name].gives(place, ended.out)
            if found != expected:
                wrong.append((name, file, how, "another result", ended.err))
            elif after != before and how not in ("deleted", "garbage line"):
                said = "damaged" in ended.err
                counted("damage made good and said" if said else "damage without a meaning")
            else:
                counted("damage made good")
        elif ended.is_one_line:
            counted("damage refused in one line")
        else:
            wrong.append((name, file, how, ended.code, ended.err[-600:]))
        shutil.rmtree(place)
    assert wrong == [], "\n".join(map(str, wrong))


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_sweep_file_is_refused_in_one_line_or_another_sweep(tmp_path, how, counted):
    """Input that the user writes: what is no sweep is refused, what is one is what it says."""
    from small_sweep import write

    path = write(tmp_path)
    after = DAMAGE[how](path.read_bytes())
    path.unlink() if after is None else path.write_bytes(after)
    ended = forked(command("sweep", path, "--runs-dir", tmp_path / "runs", "--dry-run", "--json"))
    assert ended.code == 0 or ended.is_one_line, ended
    counted("damage to sweep files")
