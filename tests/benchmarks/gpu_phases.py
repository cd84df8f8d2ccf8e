"""Memory and tokens a second of each phase of a step, beside what `bench doctor` estimates.

    python tests/benchmarks/gpu_phases.py

Random weights of Qwen3-1.7B from 4B, 32 responses of 1,024 tokens, bfloat16. Prints one line of
JSON. The functions are the engine's own, called one by one in the order of a step.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from settings import VOCABULARY, config_of, make_pair
from transformers import Qwen3ForCausalLM

from bench.core.clock import now
from bench.core.config import Experiment, Runtime
from bench.core.progress import Progress
from bench.core.provenance import peak_memory_bytes, reset_peak_memory
from bench.core.sampling import Vocabulary
from bench.run.evaluations import Evaluations
from bench.run.memory import needs, shape_of
from bench.run.plan import make_plan
from bench.run.run_experiment import open_trainer
from bench.selection.budget import Selection
from bench.tasks.protocol import asking_of
from bench.train.hidden_states import hidden_states
from bench.train.setup import place_frozen
from bench.train.trainer import Trainer

T = TypeVar("T")


@dataclass(frozen=True)
class Load:
    """What is run."""

    sizes: tuple[str, str] = ("Qwen3-1.7B", "Qwen3-4B")
    vocabulary: int = VOCABULARY
    prompts: int = 32
    tokens: int = 1024
    micro_batch: int = 4
    eval_items: int = 32
    eval_tokens: int = 32
    warm_tokens: int = 32
    device: str = "cuda"
    dtype: str = "bfloat16"

    def experiment(self, pair: Path) -> Experiment:
        return Experiment(
            pair=str(pair), selector="teachability", keep=0.05, prompts_per_step=self.prompts,
            max_new_tokens=self.tokens, eval_max_new_tokens=self.eval_tokens,
            dtype=self.dtype,  # type: ignore[arg-type]
        )  # fmt: skip

    def runtime(self, runs: Path) -> Runtime:
        return Runtime(
            runs_dir=runs, device=self.device, micro_batch=self.micro_batch,
            rollout_batch=self.prompts, eval_batch=self.eval_items, progress="off",
        )  # fmt: skip

    def estimate(self, prompt_tokens: int) -> dict[str, int]:
        """Phase -> the bytes that `bench doctor` says."""
        with torch.device("meta"):
            student, teacher = (
                shape_of(Qwen3ForCausalLM(config_of(name, self.vocabulary))) for name in self.sizes
            )
        experiment, runtime = self.experiment(Path("pair")), self.runtime(Path("runs"))
        return needs(student, teacher, experiment, runtime, prompt_tokens).phases


class Meter:
    """Seconds and peak memory of each act."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, int] = {}

    def measure(self, name: str, act: Callable[[], T]) -> T:
        reset_peak_memory(self.device.type)
        start = now(self.device)
        found = act()
        self.seconds[name] = now(self.device) - start
        self.peak_bytes[name] = peak_memory_bytes(self.device.type)
        print(f"{name}: {self.seconds[name]:.2f} s", file=sys.stderr, flush=True)
        return found


def measure(load: Load) -> dict[str, Any]:
    """Phase -> seconds, tokens a second, bytes at most, and the bytes that were estimated."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pair(folder / "pair", load.vocabulary, load.sizes, load.device)
        if load.device == "cuda":
            torch.cuda.empty_cache()
        experiment, runtime = load.experiment(folder / "pair"), load.runtime(folder / "runs")
        plan = make_plan(experiment, runtime)
        loaded = plan.load_pair()
        # Over the whole output layer: the ids that the small tokenizer lacks count as well.
        loaded = replace(loaded, vocabulary=Vocabulary(loaded.student.config.vocab_size))
        trainer = open_trainer(plan, loaded, runtime)
        return {"load": asdict(load), **_measured(trainer, load)}


def _measured(trainer: Trainer, load: Load) -> dict[str, Any]:
    experiment, runtime, pair = trainer.experiment, trainer.runtime, trainer.pair
    meter = Meter(trainer.accelerator.device)
    evaluations = Evaluations(
        runtime, asking_of(experiment, pair.chat), None, Progress("off"), trainer.processes
    )
    meter.measure("evaluate", lambda: evaluations.examine(
        trainer.teacher, pair.tokenizer, ("tiny_math",), pair.teacher_stop_ids, "teacher",
        load.eval_items,
    ))  # fmt: skip
    place_frozen(trainer.setup, experiment, runtime)
    # The moments of the optimizer are there from the first update on.
    trainer.experiment = experiment.model_copy(update={"max_new_tokens": load.warm_tokens})
    trainer.step(0)
    attention = _attention(trainer) if load.device == "cuda" else {}
    trainer.experiment = experiment
    sampled, longest, same = _step(trainer, meter)
    return {
        "attention": attention,
        "same_gradient_twice": same,
        "prompt_tokens": longest,
        "sampled_tokens": sampled,
        "seconds": meter.seconds,
        "tokens_per_s": {
            name: sampled / seconds for name, seconds in meter.seconds.items() if name != "evaluate"
        },
        "peak_bytes": meter.peak_bytes,
        "estimated_bytes": load.estimate(longest),
    }


def _attention(trainer: Trainer) -> dict[str, float]:
    """Seconds of a position with cuDNN's attention, which the engine turns off, and without."""
    found = {}
    for name, step, on in (("cudnn", 2, True), ("torch", 3, False)):
        torch.backends.cuda.enable_cudnn_sdp(on)
        with trainer.accelerator.autocast():
            start = now(trainer.accelerator.device)
            rollout = trainer.rollout(step)
            passed = now(trainer.accelerator.device) - start
        found[name] = passed / rollout.token_BT.shape[1]
    return found


def _fingerprint(trainer: Trainer) -> list[float]:
    """A number of each parameter's gradient."""
    own = trainer.pair.student.parameters()
    return [float(p.grad.double().square().sum()) for p in own if p.grad is not None]


def _step(trainer: Trainer, meter: Meter) -> tuple[int, int, bool]:
    """One step, taken apart: sampled tokens, tokens of the longest prompt, and whether the same
    gradient, computed twice, is the same to the last bit."""
    setup = trainer.setup
    with trainer.accelerator.autocast():
        rollout = meter.measure("rollout", lambda: trainer.rollout(1))
        own = trainer.own(rollout)

        def teacher() -> torch.Tensor:
            with torch.no_grad():
                return hidden_states(
                    trainer.teacher, own, own.mask_BT, setup.passes, trainer.processes
                )

        def score(teacher_ND: torch.Tensor) -> Selection:
            scored = trainer.score(
                rollout, setup.names, rollout.student_hidden_ND, model=setup.scorer,
                teacher_hidden_ND=teacher_ND,
            )  # fmt: skip
            signals = trainer.joined(rollout, 1, scored, setup.extra_names, setup.scorer)
            with torch.autocast(trainer.accelerator.device.type, enabled=False):
                return trainer.select(signals, rollout, 1)

        def loss(selection: Selection) -> None:
            trainer.update(trainer.gradient(rollout, selection, teacher_ND).loss)

        teacher_ND = meter.measure("teacher", teacher)
        selection = meter.measure("score", lambda: score(teacher_ND))
        meter.measure("loss", lambda: loss(selection))
        everything = Selection.of_weights(rollout.mask_BT.float())
        meter.measure("loss_of_all", lambda: loss(everything))
        prints = []
        for _ in range(2):
            setup.optimizer.zero_grad()
            trainer.gradient(rollout, everything, teacher_ND)
            prints.append(_fingerprint(trainer))
    sampled, longest = int(rollout.mask_BT.sum()), int(rollout.prompt_length_B.max())
    return sampled, longest, prints[0] == prints[1]


def main() -> None:
    print(json.dumps(measure(Load())))


if __name__ == "__main__":
    main()
