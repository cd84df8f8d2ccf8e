"""The architecture: imports point one way, and the folder `selectors` shadows nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    "arithmetic batches bootstrap compare compatibility contamination figure_style keep keys "
    "markdown objectives population progress stats token_classes",
    "artefact_sheet association budget config diagnostic_figures regression signals",
    "adapters answers chat combine console gradients grammar matched memory optimizer overlap "
    "pairs placement processes records rule stopping storage workers",
    "checkpoints contrasts expression mathsets models overlap_figures rows tasklist trackers",
    "diagnostic_sheet leaderboard prompts registry two_runs",
    "across catalogue claims contract cost_figures panel rollout",
    "figures passes plan responses screen sheets token_bank",
    "artefacts bank evaluate extras preflight shadow sweepfile vllm_rollout",
    "doctor engine examiner",
    "run updates",
    "cli_lists gain launch",
    "diagnostic tuning",
    "against sweep",
    "diagnose",
    "cli_results",
    "cli",
    "__init__ __main__",
)
"""Each module may import only from layers above its own line."""
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names.split()}

BUILDER = {"tiny", "tiny_train", "tiny_measure", "tiny_card"}
"""Makes the embedded pairs; nothing but the command line may import it."""


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module == "bench" else {node.module}
    return found


def modules() -> list[str]:
    return [path.stem for path in (ROOT / "bench").glob("*.py") if path.stem not in BUILDER]


@pytest.mark.parametrize("module", modules())
def test_imports_point_one_way(module):
    assert module in LAYER, f"bench/{module}.py has no layer"
    if module == "__init__":
        return
    for name in imported(ROOT / "bench" / f"{module}.py"):
        if not name.startswith("bench."):
            continue
        other = name.split(".")[1]
        if other == "tasks":
            assert module == "evaluate"  # lm-eval imports them by the names in the task files
        elif other in BUILDER:
            assert module == "cli_lists"
        else:
            assert LAYER[other] < LAYER[module], f"{module} imports {other}"


@pytest.mark.parametrize(
    "package, only",
    [
        (
            "transformers",
            {
                "models",
                "rollout",
                "optimizer",
                "examiner",
                "run",
                "passes",
                "doctor",
                "preflight",
                "placement",
                "vllm_rollout",
                *BUILDER,
            },
        ),
        ("accelerate", {"checkpoints", "bank", "processes", "trackers"}),
        ("lm_eval", {"evaluate"}),
        ("peft", {"adapters"}),
        ("datasets", {"prompts"}),
        ("optuna", {"sweep", "storage", "tuning"}),
        ("vllm", {"vllm_rollout"}),
    ],
)
def test_each_library_has_its_place(package, only):
    users = {
        path.stem
        for path in (ROOT / "bench").glob("*.py")
        if any(name.split(".")[0] == package for name in imported(path))
    }
    assert users <= only


@pytest.mark.parametrize("path", sorted((ROOT / "selectors").glob("*.py")), ids=lambda p: p.stem)
def test_selectors_import_the_registry_signals_and_torch_alone(path):
    for name in imported(path):
        assert name.split(".")[0] == "torch" or name in {"bench.registry", "bench.signals", "math"}


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
