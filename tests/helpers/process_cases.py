"""What the tests compute on one process and on two: each case returns plain tensors and numbers.

`python process_cases.py OUT PAIR [CASE...]` runs cases as one of the processes that the environment
names, and writes OUT/RANK.pt. Not a test by itself.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from small_pair import pair_folder
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from bench.core.config import Experiment, Runtime
from bench.core.errors import BenchError, Stopped
from bench.core.processes import Processes, Worked, shard
from bench.pairs.models import load_pair
from bench.run.plan import make_plan
from bench.run.run_experiment import open_trainer
from bench.tasks.responses import Decoding, respond
from bench.train.metrics import Timer
from bench.train.setup import make_optimizer
from bench.train.trainer import Trainer

SMALL = {
    "prompts_per_step": 7, "responses_per_prompt": 2, "max_new_tokens": 10, "steps": 3, "keep": 0.3,
}  # fmt: skip
FIRST_ROWS = """
from bench import selector

@selector("first_rows", needs=("student_entropy_BT",))
def first_rows(signals):
    row_B1 = signals.position_BT.new_tensor(range(signals.mask_BT.shape[0]))[:, None]
    return signals.student_entropy_BT - 100.0 * row_B1
"""
"""Keeps the batch's first responses only, which one process sampled."""
PAIR = sys.argv[2] if __name__ == "__main__" else str(pair_folder())


class Counted(torch.nn.Module):
    """Counts the forward passes of a model's backbone."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.count = 0
        model.base_model.register_forward_pre_hook(self._one)

    def _one(self, *_: Any) -> None:
        self.count += 1


def shard_as_accelerate(accelerator: Accelerator, student: Worked, by_one: bool) -> torch.nn.Module:
    """What `accelerator.prepare` does to a model under FSDP2, which it only starts on a GPU.

    `by_one`: the main process alone has the weights, and sends the others theirs.
    """
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=by_one
    )
    stand_in = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="no", is_main_process=True,
        device=accelerator.device,
    )  # fmt: skip
    return fsdp2_prepare_model(stand_in, student)


def trainer(runtime: dict[str, Any], sharded: str = "", **values: Any) -> Trainer:
    folder = Path(tempfile.mkdtemp())
    if values.get("selector") == "first_rows":
        (folder / "rules.py").write_text(FIRST_ROWS)
        values["selector"] = f"{folder / 'rules.py'}:first_rows"
    experiment = Experiment.parse({"pair": PAIR, **SMALL, **values})
    settings = Runtime(runs_dir=folder, device="cpu", progress="off", **runtime)
    plan = make_plan(experiment, settings)
    prepare = Accelerator.prepare
    if sharded:

        def prepare_sharded(self: Accelerator, student: Worked, _: Any) -> tuple[Any, Any]:
            if sharded == "torch":
                whole = shard(student.model)
            else:
                whole = shard_as_accelerate(self, student, sharded == "accelerate, by one")
            return whole, make_optimizer(whole, experiment)

        Accelerator.prepare = prepare_sharded  # type: ignore[method-assign]
    try:
        return open_trainer(plan, load_pair(plan.pair), settings)
    finally:
        Accelerator.prepare = prepare  # type: ignore[method-assign]


def full(value: torch.Tensor) -> torch.Tensor:
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def stepped(
    runtime: dict[str, Any] | None = None, sharded: str = "", **values: Any
) -> dict[str, Any]:
    """Two updates, and what they were made of: the rollouts, masks, gradients and weights."""
    one = trainer(runtime or {}, sharded, **values)
    model = one.pair.student
    student, teacher = Counted(model), Counted(one.pair.teacher)
    found: dict[str, Any] = {"processes": one.processes.size}
    for step in range(2):
        rollout = one.rollout(step)
        signals, scored = one.signals(
            rollout, step, Timer(one.totals.seconds, one.accelerator.device)
        )
        selection = one.select(signals, rollout, step)
        # From here both run as often, however the lengths fell.
        student.count = teacher.count = 0
        loss = one.gradient(rollout, selection, scored.teacher_hidden_ND).loss
        found |= {
            f"token {step}": rollout.token_BT,
            f"mask {step}": rollout.mask_BT,
            f"keys {step}": rollout.row_key_B,
            f"selected {step}": selection.selected_BT,
            f"weight {step}": selection.weight_BT,
            f"loss {step}": loss,
            f"gradient {step}": {
                name: full(parameter.grad)
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            },
            f"forwards {step}": (student.count, teacher.count),
            f"own tokens {step}": int(one.own(rollout).mask_BT.sum()),
            f"own selected {step}": int(
                selection.selected_BT[one.processes.rows(len(rollout.row_key_B))].sum()
            ),
        }
        for name, value in signals.computed().items():
            found[f"signal {name} {step}"] = value
        moved = one.update(loss)
        found[f"norm {step}"], found[f"moved {step}"] = moved.grad_norm, moved.displacement
    found["weights"] = {name: full(parameter) for name, parameter in model.named_parameters()}
    found["scored"] = one.totals.scored
    return found


def answered(sharded: str = "") -> dict[str, Any]:
    """Responses to prompts of unequal length, greedy and sampled; after an update, and to a single
    prompt too, which leaves one process without any."""
    one = trainer({}, sharded, selector="entropy")
    rollout = one.rollout(0)
    signals, scored = one.signals(rollout, 0, Timer(one.totals.seconds, one.accelerator.device))
    chosen = one.select(signals, rollout, 0)
    one.update(one.gradient(rollout, chosen, scored.teacher_hidden_ND).loss)
    prompts = ["1+2=", "3", "12+34=", "5+6+7=", "8-1="]
    found = {}
    for temperature in (0.0, 1.0):
        decoding = Decoding(tuple(range(0, 657, 11)), 8, temperature, 1.0, 2, seed=0)
        for asked in (prompts[:1], prompts):
            responses = respond(
                one.student, one.pair.tokenizer, decoding, lambda *_: None, asked,
                [f"key {i}" for i in range(len(asked))], one.processes,
            )  # fmt: skip
            found[f"{len(asked)} at {temperature}"] = [vars(response) for response in responses]
    return found


def exchanged() -> dict[str, Any]:
    """How often DDP exchanges gradients in two steps of several micro-batches each."""
    one, calls = trainer({"micro_batch": 2}, selector="full", keep=1.0), []
    if isinstance(one.student, DistributedDataParallel):

        def counting(state: object, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
            calls.append(bucket.index())
            return allreduce_hook(state, bucket)

        one.student.register_comm_hook(None, counting)
    counts = []
    for step in range(2):
        calls.clear()
        rollout = one.rollout(step)
        signals, scored = one.signals(
            rollout, step, Timer(one.totals.seconds, one.accelerator.device)
        )
        chosen = one.select(signals, rollout, step)
        one.update(one.gradient(rollout, chosen, scored.teacher_hidden_ND).loss)
        counts.append(calls.count(0))
    return {"exchanges": counts}


def observed() -> dict[str, Any]:
    """The shadow panel where one process keeps all of its tokens and the other does not."""
    one = trainer({"shadow": ("entropy",)}, selector="random", keep=0.99)
    one.processes.lead(lambda: one.folder.create({}, {}))
    one.step(0)
    shadow = one.processes.lead(one.folder.shadow.read_text)
    return {"kept": json.loads(shadow)["kept"]}


def failed() -> dict[str, Any]:
    """What every process hears of work that fails on one, and whom the error names."""
    processes = Processes(Accelerator(cpu=True))
    found = {}
    for index in range(2):

        def work(index: int = index) -> str:
            if processes.index == index:
                raise OSError("no space left")
            return "done"

        try:
            found[f"together {index}"] = processes.together(work)
        except Exception as error:
            whose = getattr(error, "process", None)
            found[f"together {index}"] = (f"{type(error).__name__}: {error}", whose)
    errors = (BenchError("lead"), Stopped("stopped"), BenchError("here"))
    for error, place in zip(errors, (processes.lead, lambda work: work(), None), strict=True):

        def work(error: BenchError = error) -> None:
            raise error

        try:
            with processes.blamed():
                place(work) if place is not None else work()
        except BenchError as raised:
            found[str(raised)] = raised.process
    found["all is well"] = processes.together(lambda: processes.index)
    return found


def joined() -> dict[str, Any]:
    """The collectives themselves."""
    processes = Processes(Accelerator(cpu=True))
    own = torch.arange(3 + processes.index) + 10 * processes.index
    errors = []
    try:
        processes.lead(lambda: 1 // 0)
    except Exception as error:
        errors.append(f"{type(error).__name__}: {error}")
    return {
        "join": processes.join(own),
        "join wide": processes.join(own[:, None].float().expand(-1, 2)),
        "join bool": processes.join(own % 2 == 0),
        "join empty": processes.join(own[: processes.index]),
        "objects": processes.join_objects([processes.index] * (1 + processes.index)),
        "most": processes.most(5 - processes.index),
        "any": (processes.any(processes.index == 1), processes.any(False)),
        "lead": processes.lead(lambda: f"from {processes.index}"),
        "of main": processes.of_main(torch.tensor([float(processes.index)])),
        "errors": errors,
        "rows": [(r.start, r.stop) for r in (processes.rows(count) for count in (2, 5, 7))],
    }


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "joined": joined,
    "joined, gradients": exchanged,
    "joined, panel": observed,
    "joined, errors": failed,
    "entropy": lambda: stepped(selector="entropy"),
    "teachability": lambda: stepped(selector="teachability"),
    "teachability, small pieces": lambda: stepped(
        {"micro_batch": 2, "rollout_batch": 3, "logit_chunk": 2000}, selector="teachability"
    ),
    "hidden states not reused": lambda: stepped({"reuse_hidden": False}, selector="teachability"),
    "random, per response": lambda: stepped(
        selector="random", normalize="per_response", scope="response"
    ),
    "full, selected": lambda: stepped(selector="full", keep=1.0),
    "full, all": lambda: stepped(selector="full", keep=1.0, normalize="all"),
    "one process only": lambda: stepped({"micro_batch": 1}, selector="first_rows", keep=0.1),
    "extra passes": lambda: stepped(selector="oracle_gain"),
    "other prompts": lambda: stepped(selector="prompt_reliance"),
    "weights": lambda: stepped(selector="scope", keep=1.0),
    "sharded": lambda: stepped({"micro_batch": 2}, sharded="torch", selector="teachability"),
    "sharded, one process only": lambda: stepped(
        {"micro_batch": 1, "rollout_batch": 3}, sharded="torch", selector="first_rows", keep=0.1
    ),
    "sharded, full": lambda: stepped(sharded="torch", selector="full", keep=1.0),
    "sharded by accelerate": lambda: stepped(sharded="accelerate", selector="teachability"),
    "sharded, sent by one": lambda: stepped(sharded="accelerate, by one", selector="teachability"),
    "sharded, extra passes": lambda: stepped(sharded="accelerate", selector="oracle_gain"),
    "answered": answered,
    "answered, sharded": lambda: answered(sharded="torch"),
}

if __name__ == "__main__":
    out = Path(sys.argv[1])
    names = sys.argv[3:] or list(CASES)
    results = {name: CASES[name]() for name in names}
    torch.save(results, out / f"{Processes(Accelerator(cpu=True)).index}.pt")
