"""Two processes give what one gives: rollouts, signals, masks, gradients, weights, answers."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from process_cases import CASES
from small_pair import pair_folder

from bench.core.config import Experiment, Runtime
from bench.core.processes import leave_group, make_accelerator

# One after another: each finds a free port, which another could take first.
pytestmark = pytest.mark.xdist_group("launched")

HERE = Path(__file__).parents[1] / "helpers"
LAUNCH = ["-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no",
          "--dynamo_backend", "no"]  # fmt: skip


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> list[dict]:
    """Every case's result on each of two gloo processes."""
    out = tmp_path_factory.mktemp("two")
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": free_port(), "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    command = [sys.executable, "-W", "ignore", str(HERE / "process_cases.py"), str(out)]
    command.append(str(pair_folder()))
    started = [
        subprocess.Popen(
            command, env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=600)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], said
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(2)]


STEPPED = [name for name in CASES if not name.startswith(("joined", "answered"))]


@pytest.fixture(scope="module")
def of_one() -> dict:
    """Every case that steps, on one process; sharded ones as the plain case they should equal."""
    return {}


def alone(name: str, of_one: dict) -> dict:
    plain = name.replace("sharded, one process only", "one process only")
    plain = {
        "sharded": "teachability", "sharded by accelerate": "teachability",
        "sharded, sent by one": "teachability",
        "sharded, full": "full, selected", "sharded, extra passes": "extra passes",
    }.get(plain, plain)  # fmt: skip
    if plain not in of_one:
        of_one[plain] = CASES[plain]()
    return of_one[plain]


@pytest.mark.parametrize("name", STEPPED)
def test_two_processes_train_as_one(name, of_one, of_two):
    one = alone(name, of_one)
    for two in (result[name] for result in of_two):
        assert (one["processes"], two["processes"]) == (1, 2)
        for step in range(2):
            assert two[f"keys {step}"] == one[f"keys {step}"]
            for part in ("token", "mask", "selected"):
                assert torch.equal(two[f"{part} {step}"], one[f"{part} {step}"]), (part, step)
            for signal in (key for key in one if key.startswith("signal")):
                torch.testing.assert_close(two[signal], one[signal], atol=1e-5, rtol=1e-5)
            assert two[f"loss {step}"] == pytest.approx(one[f"loss {step}"], rel=1e-5)
            assert two[f"norm {step}"] == pytest.approx(one[f"norm {step}"], rel=1e-4)
            close(two[f"gradient {step}"], one[f"gradient {step}"])
        close(two["weights"], one["weights"])
        assert two["scored"] == one["scored"]


def close(two: dict[str, torch.Tensor], one: dict[str, torch.Tensor]) -> None:
    """float32 accuracy, relative to the largest entry of all."""
    assert set(two) >= set(one)
    largest = max(float(value.abs().max()) for value in one.values())
    assert largest > 0
    for name, value in one.items():
        assert float((two[name] - value).abs().max()) < 1e-5 * largest, name


@pytest.mark.parametrize("name", STEPPED)
def test_both_processes_hold_the_same_and_run_as_often(name, of_two):
    first, second = (result[name] for result in of_two)
    for step in range(2):
        for part in ("token", "mask", "selected", "weight"):
            assert torch.equal(first[f"{part} {step}"], second[f"{part} {step}"])
        for gradient, other in zip(
            first[f"gradient {step}"].values(), second[f"gradient {step}"].values(), strict=True
        ):
            assert torch.equal(gradient, other)
        assert first[f"forwards {step}"] == second[f"forwards {step}"]
        assert first[f"own tokens {step}"] + second[f"own tokens {step}"] == int(
            first[f"mask {step}"].sum()
        )
    for weight, other in zip(first["weights"].values(), second["weights"].values(), strict=True):
        assert torch.equal(weight, other)


def test_a_process_with_nothing_selected_takes_part(of_two):
    """The case that would hang: all of the budget falls on the other process's responses."""
    for name in ("one process only", "sharded, one process only"):
        first, second = (result[name] for result in of_two)
        assert first["own selected 0"] > 0
        assert second["own selected 0"] == 0
        assert second["forwards 0"][0] > 0


@pytest.mark.parametrize("name", ["answered", "answered, sharded"])
def test_responses_are_shared_out_and_the_same(name, of_two):
    one = CASES["answered"]()
    for two in of_two:
        assert two[name] == one


def test_gradients_are_exchanged_once_a_step(of_two):
    for found in of_two:
        assert found["joined, gradients"]["exchanges"] == [1, 1]


def test_the_panel_does_not_depend_on_what_one_process_keeps(of_two):
    one = CASES["joined, panel"]()
    for two in of_two:
        assert two["joined, panel"] == one


def test_an_error_on_one_process_is_heard_by_all_and_named(of_two):
    for index, found in enumerate(result["joined, errors"] for result in of_two):
        for failing in range(2):
            own = ("OSError: no space left", None)
            heard = (f"BenchError: process {failing}: OSError: no space left", failing)
            assert found[f"together {failing}"] == (own if failing == index else heard)
        assert found["all is well"] == index
        assert found["lead"] == 0  # the main process's, wherever it is raised
        assert found["here"] == index
        assert found["stopped"] is None


def test_collectives(of_two):
    for found in (result["joined"] for result in of_two):
        assert found["join"].tolist() == [0, 1, 2, 10, 11, 12, 13]
        assert found["join wide"].tolist() == [[float(x)] * 2 for x in (0, 1, 2, 10, 11, 12, 13)]
        assert found["join bool"].tolist() == [True, False, True, True, False, True, False]
        assert found["join empty"].tolist() == [10]
        assert found["objects"] == [0, 1, 1]
        assert found["most"] == 5
        assert found["any"] == (True, False)
        assert found["lead"] == "from 0"
        assert found["of main"].tolist() == [0.0]
    first, second = (result["joined"] for result in of_two)
    assert first["errors"] == ["ZeroDivisionError: integer division or modulo by zero"]
    assert second["errors"] == ["BenchError: ZeroDivisionError: integer division or modulo by zero"]
    assert first["rows"] == [(0, 1), (0, 2), (0, 3)]
    assert second["rows"] == [(1, 2), (2, 5), (3, 7)]


# --- the command itself --------------------------------------------------------------------------

RUN = ["run", "--steps", "4", "--prompts-per-step", "6", "--max-new-tokens", "10", "--eval-items",
       "6", "--checkpoint-every", "1", "--json", "--shadow", "entropy", "--token-bank", "2",
       "--eval-every", "2", "--log-with", "tensorboard"]  # fmt: skip


def bench(folder: Path, *launch: str, selector: str = "teachability", **environment: str):
    command = [sys.executable, "-W", "ignore", *launch, "-m", "bench", *RUN]
    command += ["--selector", selector, "--pair", str(pair_folder()), "--runs-dir", str(folder)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600,
        cwd=folder.parent,
    )  # fmt: skip


def test_accelerate_launch_on_two_processes_gives_the_record_of_one(tmp_path):
    launch = [*LAUNCH, "--multi_gpu", "--num_processes", "2", "--main_process_port", free_port()]
    done = bench(tmp_path / "two", *launch, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout)  # one document: the other process prints nothing
    assert two["provenance"]["processes"] == 2
    one = json.loads(bench(tmp_path / "one").stdout)
    assert one["provenance"]["processes"] == 1
    for name in ("run_id", "experiment", "scores", "change", "curve", "tokens", "realised_keep"):
        assert two[name] == one[name], name
    shadows = [Path(record["folder"], "shadow.jsonl").read_text() for record in (one, two)]
    kept = [[json.loads(line)["kept"] for line in text.splitlines()] for text in shadows]
    assert kept[0] == kept[1] and len(kept[0]) == 4
    banks = [pd.read_parquet(Path(record["folder"], "token_bank")) for record in (one, two)]
    pd.testing.assert_frame_equal(banks[0], banks[1], check_exact=False, atol=1e-5, rtol=1e-5)
    events = list(Path(two["folder"], "trackers").rglob("events.*"))
    assert len(events) == len(list(Path(one["folder"], "trackers").rglob("events.*")))
    (rows,) = (tmp_path / "two" / "rows.jsonl").read_text().splitlines()
    assert json.loads(rows)["run_id"] == one["run_id"]
    # The folder is finished for one process too, and its checkpoint is the same model.
    again = bench(tmp_path / "two")
    assert json.loads(again.stdout) == two


def test_parting_ends_the_group_and_is_nothing_alone(tmp_path):
    leave_group()
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    leave_group()
    assert not torch.distributed.is_initialized()


def test_an_error_on_another_process_is_printed(tmp_path):
    rule = tmp_path / "rules.py"
    rule.write_text(
        "import os\nfrom bench import selector\n\n\n@selector('apart')\ndef apart(signals):\n"
        "    return signals.uniform_BT * (float('nan') if os.environ.get('RANK') == '1' else 1)\n"
    )
    launch = [*LAUNCH, "--multi_gpu", "--num_processes", "2", "--main_process_port", free_port()]
    place = tmp_path / "runs"
    done = bench(place, *launch, selector=f"{rule}:apart", ACCELERATE_USE_CPU="true")
    assert done.returncode != 0
    assert "bench: error: process 1: selector" in done.stderr and "NaN" in done.stderr


def test_a_launch_that_divides_the_loss_is_refused(tmp_path):
    done = bench(tmp_path / "runs", ACCELERATE_GRADIENT_ACCUMULATION_STEPS="2")
    assert done.returncode == 1
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS: 2 is not accepted" in done.stderr
    assert not (tmp_path / "runs" / "rows.jsonl").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="with GPUs they do find each other")
def test_processes_that_did_not_find_each_other_are_refused(tmp_path):
    """Without ACCELERATE_USE_CPU, accelerate 1.15 starts two that know nothing of each other."""
    launch = [*LAUNCH, "--multi_gpu", "--num_processes", "2", "--main_process_port", free_port()]
    done = bench(tmp_path / "runs", *launch, ACCELERATE_USE_CPU="false")
    assert done.returncode != 0
    assert "2 processes were launched, and accelerate joins 1" in done.stderr
    assert "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu" in done.stderr
    assert not (tmp_path / "runs" / "rows.jsonl").exists()


def test_a_device_that_one_run_chose_does_not_bind_the_next():
    """A run on the CPU, and then one on whatever there is, in one process."""
    from accelerate.state import PartialState

    make_accelerator(Experiment(), Runtime(device="cpu"))
    assert PartialState()._cpu
    make_accelerator(Experiment(), Runtime(device="auto"))
    assert not PartialState()._cpu


def test_fsdp_as_accelerate_starts_it_on_devices_does_what_one_process_does(tmp_path):
    """The whole command, on two processes of a CPU that accelerate takes for devices."""
    flags = ["run", "--selector", "teachability", "--keep", "0.2", "--prompts-per-step", "6",
             "--max-new-tokens", "10", "--steps", "2", "--eval-items", "8", "--pair",
             str(pair_folder()), "--progress", "off"]  # fmt: skip
    sharded = {
        "ACCELERATE_TORCH_DEVICE": "cpu", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    }  # fmt: skip
    two = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port(),
           str(HERE / "fsdp_on_cpu.py")]  # fmt: skip
    found = []
    for name, command, more in (("one", ["-m", "bench"], {}), ("two", two, sharded)):
        done = subprocess.run(
            [sys.executable, *command, *flags, "--runs-dir", str(tmp_path / name)],
            capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1", **more},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        (run,) = [path.parent for path in (tmp_path / name).glob("*/record.json")]
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        record = json.loads((run / "record.json").read_text())
        found.append(([line["loss"] for line in lines], record["provenance"]["processes"]))
    (one, single), (other, both) = found
    assert (single, both) == (1, 2)
    assert other == pytest.approx(one, rel=1e-5)
