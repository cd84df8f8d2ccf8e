"""The architecture: rooms import one way, and the folder `selectors` shadows nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BENCH = ROOT / "bench"
TESTS = ROOT / "tests"
MAY_IMPORT = {
    "core": "",
    "tasks": "core",
    "selection": "core",
    "tables": "core",
    "pairs": "core tasks",
    "train": "core tasks selection pairs",
    "shadow": "core tasks selection pairs train tables",
    "run": "core tasks selection pairs train shadow",
    "sweep": "core tasks selection run",
    "diagnose": "core tasks selection tables pairs train run",
    "report": "core tasks selection tables shadow diagnose",
    "cli": "core tasks selection tables pairs train shadow run sweep diagnose report",
}
"""room -> the rooms that its files may import, besides their own."""


def module_of(path: Path) -> str:
    """bench.core.config of bench/core/config.py, bench.core of its `__init__`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, known: set[str] = frozenset()) -> set[str]:
    """Every module that a file imports, wherever in the file; `from a import b` is a.b if known."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in names}
    return found


def graph() -> dict[str, set[str]]:
    """module -> what it imports of the package."""
    paths = {module_of(path): path for path in BENCH.rglob("*.py")}
    return {
        name: {other for other in imported(path, set(paths)) if other in paths}
        for name, path in paths.items()
    }


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Some circle of imports, or nothing."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(edges.get(name, ())):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(edges) if (found := walk(name, []))), [])


def upward(edges: dict[str, set[str]]) -> list[str]:
    """Imports that the table of rooms does not allow, as `a imports b`."""
    found = []
    for name, others in edges.items():
        room = name.split(".")[1]
        allowed = {room, *MAY_IMPORT[room].split()}
        found += [f"{name} imports {o}" for o in others if o.split(".")[1] not in allowed]
    return sorted(found)


def inside() -> dict[str, set[str]]:
    """`graph` without what the package itself hands on to users."""
    return {n: o - {"bench"} for n, o in graph().items() if n not in ("bench", "bench.__main__")}


def test_the_rooms_are_those_of_the_house():
    found = {path.name for path in BENCH.iterdir() if path.name != "__pycache__"}
    assert found == {*MAY_IMPORT, "__init__.py", "__main__.py"}
    assert all((BENCH / room / "__init__.py").read_text().startswith('"""') for room in MAY_IMPORT)


def test_rooms_import_only_what_the_table_allows():
    edges = inside()
    assert upward(edges) == []
    edges["bench.train.loop"] = edges["bench.train.loop"] | {"bench.run.plan"}
    assert upward(edges) == ["bench.train.loop imports bench.run.plan"]


def test_no_file_imports_itself_by_way_of_others():
    edges = inside()
    assert circle(edges) == []
    edges["bench.core.files"] = edges["bench.core.files"] | {"bench.core.records"}
    assert circle(edges) == ["bench.core.files", "bench.core.records", "bench.core.files"]


@pytest.mark.parametrize(
    "package, only",
    [
        (
            "transformers",
            "core/decode pairs train run/evaluations run/preflight run/trained_model",
        ),
        ("accelerate", "core/processes train diagnose/build_bank"),
        ("lm_eval", "tasks/evaluate"),
        ("math_verify", "tasks/symbolic tasks/grader"),
        ("datasets", "tasks/maths_sets"),
        ("peft", "pairs/adapters"),
        ("tokenizers", "pairs/tiny/tokenizer"),
        ("optuna", "sweep"),
        ("vllm", "train/vllm_rollout"),
        ("pandas", "tables/pages"),
        ("matplotlib", "tables shadow/overlap_figures diagnose"),
        ("jinja2", "report/html"),
        ("cyclopts", "cli"),
        ("rich", "cli core/progress pairs/tiny/build"),
    ],
)
def test_each_library_has_its_place(package, only):
    users = {
        str(path.relative_to(BENCH).with_suffix(""))
        for path in BENCH.rglob("*.py")
        if any(name.split(".")[0] == package for name in imported(path))
    }
    assert users and all(
        any(f"{user}/".startswith(f"{o}/") for o in only.split()) for user in users
    )


@pytest.mark.parametrize("path", sorted((ROOT / "selectors").glob("*.py")), ids=lambda p: p.stem)
def test_selectors_import_the_registry_and_torch_alone(path):
    for name in imported(path):
        assert name.split(".")[0] == "torch" or name in {
            "bench",
            "bench.selection.registry",
            "math",
        }


def test_the_folder_selectors_shadows_nothing():
    assert not (ROOT / "selectors" / "__init__.py").exists()
    for arguments in (["-c", "import subprocess, asyncio, selectors; selectors.DefaultSelector"],
                      ["-m", "bench", "--help"]):  # fmt: skip
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_the_public_names_are_there():
    import bench

    for name in bench.__all__:
        assert getattr(bench, name) is not None
    from bench.pairs import get_pair

    assert bench.get_pair is get_pair


def test_importing_bench_imports_no_torch():
    script = "import bench, sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], cwd="/").returncode == 0
