"""The architecture: rooms import one way, and the folder `selectors` shadows nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BENCH = ROOT / "bench"
ROOMS = {
    "cli", "core", "diagnose", "pairs", "run", "selection", "shadow", "sweep", "tables", "tasks",
    "train",
}  # fmt: skip


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


def test_the_rooms_are_those_of_the_house():
    found = {path.name for path in BENCH.iterdir() if path.name != "__pycache__"}
    assert found == {*ROOMS, "__init__.py", "__main__.py"}


def test_no_file_imports_itself_by_way_of_others():
    edges = graph()
    del edges["bench"]  # its names are for users, and looked up when asked for
    assert circle(edges) == []
    edges["bench.core.config"] = edges["bench.core.config"] | {"bench.cli.app"}
    assert "bench.cli.app" in circle(edges)


@pytest.mark.parametrize(
    "package, only",
    [
        ("transformers", {"pairs", "train", "run"}),
        ("accelerate", {"core", "train", "diagnose"}),
        ("lm_eval", {"tasks"}),
        ("peft", {"pairs"}),
        ("datasets", {"tasks"}),
        ("optuna", {"sweep"}),
        ("vllm", {"train"}),
    ],
)
def test_each_library_has_its_place(package, only):
    users = {
        path.relative_to(BENCH).parts[0]
        for path in BENCH.rglob("*.py")
        if any(name.split(".")[0] == package for name in imported(path))
    }
    assert users <= only


@pytest.mark.parametrize("path", sorted((ROOT / "selectors").glob("*.py")), ids=lambda p: p.stem)
def test_selectors_import_the_registry_signals_and_torch_alone(path):
    allowed = {"bench.selection.registry", "bench.selection.formulas", "math"}
    for name in imported(path):
        assert name.split(".")[0] == "torch" or name in allowed


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
