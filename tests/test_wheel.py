"""What is built is whole: a wheel in an environment without the checkout runs from any folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from bench import selector_names

ROOT = Path(__file__).parents[1]
SOURCES = ("bench", "selectors", "pyproject.toml", "README.md", "LICENSE")


def run(command: list, folder: Path) -> str:
    """Standard output; without the variables that would lead Python back to the checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation"]
    run([*pip, "--wheel-dir", folder, source], folder)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """bin/ of a fresh environment that has the wheel, and this one's other packages."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False, symlinks=True)
    (place,) = folder.glob("lib/python*/site-packages")
    # A path alone: what an editable install hooks into its own environment stays there.
    (place / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", folder / "bin" / "python"]
    run([*pip, "install", "--no-deps", "--no-index", "--force-reinstall", wheel], folder)
    return folder / "bin"


def test_the_wheel_holds_every_file_of_the_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    wanted = {"*.py", "*.yaml", "*.toml", "*.safetensors", "*.json"}
    files = [path for kind in wanted for path in (ROOT / "bench").rglob(kind)]
    expected = {str(path.relative_to(ROOT)) for path in files}
    expected |= {f"token_selectors/{path.name}" for path in (ROOT / "selectors").glob("*.py")}
    assert expected <= held


def test_an_installed_wheel_lists_all_selectors_and_runs_from_another_folder(installed, tmp_path):
    where = run([installed / "python", "-c", "import bench; print(bench.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    listed = json.loads(run([installed / "bench", "selectors", "--json"], tmp_path))
    assert [row["name"] for row in listed] == list(selector_names())
    flags = ["--steps", "2", "--prompts-per-step", "4", "--eval-items", "4", "--json"]
    record = json.loads(run([installed / "bench", "run", *flags], tmp_path))
    assert record["state"] == "done"
    assert (tmp_path / "runs" / record["run_id"] / "model" / "model.safetensors").is_file()
