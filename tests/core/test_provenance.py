"""What a cache is kept by: a digest of all the code that its numbers depend on."""

import ast
from pathlib import Path

import pytest

from bench.core import provenance
from bench.core.provenance import code_digest
from bench.diagnose.context_bank import BANK_CODE
from bench.diagnose.updates import UPDATE_CODE
from bench.run.evaluations import EVALUATION_CODE

BENCH = Path(provenance.__file__).parents[1]
NO_NUMBER = {
    "core": "arrays clock config errors fields files keep_schedule plain_state processes progress "
    "provenance records result_rows stats stopping sums",
    "diagnose": "context_bank diagnosis measured",
    "pairs": "pair",
    "selection": "combinations expression grammar population registry selector signals",
    "tasks": "contamination prompt_file prompt_sets prompts",
    "train": "checkpoints extra_signals metrics trackers training_state vllm_rollout",
}
"""Files that a cached number's code imports and that change none: they name, check, write or move
values. Settings, prompts and the rule itself are in the caches' keys by themselves."""
ROOTS = {
    "baselines": (EVALUATION_CODE, ["tasks/evaluate", "pairs/models"]),
    "banks": (BANK_CODE, ["diagnose/build_bank"]),
    "updates": (UPDATE_CODE, ["diagnose/updates"]),
}
"""cache -> what its digest covers, and the files that compute its numbers."""


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    (tmp_path / "room").mkdir()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "a.yaml").write_text("limit: 1\n")
    return tmp_path / "room" / "file.py"


CODE = "import math\n\n\ndef area(r):\n    return math.pi * r**2\n"


@pytest.mark.parametrize(
    "edited",
    [
        '"""A docstring."""\n\nfrom math import pi\nimport math\n\n\ndef area(r):\n'
        '    """Another."""\n    from math import tau\n\n    return math.pi * r**2  # a comment\n',
        "def area(r): return math.pi * (r ** 2)\n",
    ],
)
def test_imports_docstrings_and_layout_make_no_cache_anew(package, edited):
    package.write_text(CODE)
    before = code_digest(["room/file"])
    package.write_text(edited)
    assert code_digest(["room/file"]) == before


@pytest.mark.parametrize(
    "edited", [CODE.replace("2", "3"), CODE.replace("area", "size"), CODE + "area(1)\n"]
)
def test_code_that_does_something_else_is_another_digest(package, edited):
    package.write_text(CODE)
    before = code_digest(["room/file"])
    package.write_text(edited)
    assert code_digest(["room/file"]) != before


def test_a_folder_stands_for_its_python_and_yaml(package):
    task = package.parents[1] / "tasks" / "a.yaml"
    before = code_digest(["tasks"])
    task.write_text("limit: 2\n")
    changed = code_digest(["tasks"])
    (task.parent / "b.py").write_text("x = 1\n")
    assert len({before, changed, code_digest(["tasks"])}) == 3


def imported(name: str) -> set[str]:
    """Files of the package that a file imports: `core/config` of bench.core.config."""
    found = set()
    for node in ast.walk(ast.parse((BENCH / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bench"):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            paths = [name.removeprefix("bench").strip(".").replace(".", "/") for name in names]
            found |= {path for path in paths if (BENCH / f"{path}.py").is_file()}
    return found


def reached(roots: list[str], ignored: set[str]) -> set[str]:
    """All files that some files import, directly or by others, but for the ignored ones."""
    found, waiting = set(roots), list(roots)
    while waiting:
        new = imported(waiting.pop()) - found - ignored
        found |= new
        waiting += new
    return found


@pytest.mark.parametrize("cache", ROOTS)
def test_a_cache_is_kept_by_all_the_code_that_its_numbers_depend_on(cache):
    covered, roots = ROOTS[cache]
    ignored = {f"{room}/{name}" for room, names in NO_NUMBER.items() for name in names.split()}
    # An update is a run: what plans, shadows and records it changes no number of it.
    rooms = (
        {"run", "shadow", "tables"}
        if cache == "baselines"
        else {"run", "shadow", "tables", "tasks"}
    )
    ignored |= {f"{room}/{path.stem}" for room in rooms for path in (BENCH / room).glob("*.py")}
    assert reached(roots, ignored) <= set(covered)
    assert all((BENCH / name).is_dir() or (BENCH / f"{name}.py").is_file() for name in covered)


def test_an_edited_optimizer_makes_old_gains_no_longer_count(tmp_path, monkeypatch):
    import shutil

    copy = tmp_path / "bench"
    shutil.copytree(BENCH, copy, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    before = code_digest(UPDATE_CODE)
    setup = copy / "train" / "setup.py"
    setup.write_text(setup.read_text().replace('"weight_decay": 0.0', '"weight_decay": 0.1'))
    assert code_digest(UPDATE_CODE) != before
