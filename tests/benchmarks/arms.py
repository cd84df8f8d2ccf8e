"""The sides of the comparison, one process each: ours, TRL's DistillationTrainer, a plain loop.

    python tests/benchmarks/arms.py ARM FOLDER

ARM is `sample`, `trl`, `plain`, or `RULE@KEEP`, one of ours. FOLDER holds the setting
(`settings.py`). A side loads the pair, says {"ready": true} with the memory it has then, and
answers one line of JSON per request on standard input: `{"rollout": bool, "count": bool}`, where
`rollout` asks for a rollout of its own beside the step and `count` for the step's FLOPs. Every
side takes its steps on the same responses, sampled beforehand by `sample`, over the whole output
layer of both models: none has fewer logits to compute than another.
"""

import gc
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import torch
from settings import Setting
from torch.utils.flop_counter import FlopCounterMode

from bench.core.clock import now
from bench.core.config import Experiment, Runtime
from bench.core.provenance import reset_peak_memory
from bench.core.sampling import Vocabulary
from bench.pairs.models import LoadedPair, load_pair
from bench.pairs.pair import get_pair
from bench.run.plan import make_plan
from bench.run.run_experiment import open_trainer
from bench.train.hidden_states import hidden_states
from bench.train.rollout import Rollout
from bench.train.setup import place_frozen
from bench.train.trainer import Trainer

ROLLOUTS = "rollouts.pt"


def load(setting: Setting) -> LoadedPair:
    """The pair over its whole output layer; every weight in memory of its own.

    TRL accepts no teacher with another number of logits: padded layers are cut to the real ids.
    """
    pair = load_pair(get_pair(setting.pair))
    unequal = pair.student.config.vocab_size != pair.teacher.config.vocab_size
    for model in (pair.student, pair.teacher):
        if unequal:
            model.resize_token_embeddings(pair.vocabulary.size)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    return replace(pair, vocabulary=Vocabulary(pair.student.config.vocab_size))


def our_trainer(setting: Setting, rule: str = "full", keep: float = 1.0) -> Trainer:
    experiment = Experiment(
        pair=setting.pair, selector=rule, keep=keep, prompts_per_step=setting.prompts,
        max_new_tokens=setting.tokens, learning_rate=setting.learning_rate, steps=setting.steps,
        dtype=setting.dtype,  # type: ignore[arg-type]
    )  # fmt: skip
    runtime = Runtime(runs_dir=Path(tempfile.mkdtemp()), progress="off", device=setting.device)
    trainer = open_trainer(make_plan(experiment, runtime), load(setting), runtime)
    place_frozen(trainer.setup, experiment, runtime)
    return trainer


def sample(setting: Setting, folder: Path) -> None:
    """Every step's prompts and responses, into the folder."""
    trainer = our_trainer(setting)
    seed = trainer.experiment.seed
    steps = range(1 if setting.repeats else setting.steps)
    copies = setting.steps // len(steps)
    torch.save([trainer.rollout(step) for step in steps] * copies, folder / ROLLOUTS)
    draws = [trainer.prompts.draw(step, setting.prompts, seed) for step in steps] * copies
    texts = tuple(tuple(prompt.text for prompt in draw) for draw in draws)
    replace(setting, texts=texts).write(folder)


def responses(rollout: Rollout) -> list[list[int]]:
    """The sampled tokens of each response."""
    return [
        token_T[mask_T].tolist()
        for token_T, mask_T in zip(rollout.token_BT, rollout.mask_BT, strict=True)
    ]


class Clock:
    """Seconds by phase of one step."""

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = {}
        self.device = torch.device(device)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = now(self.device)
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + now(self.device) - start


class Ours:
    """`bench.train.trainer.Trainer.step`, logging included, on the given responses.

    Sampling leaves the student's hidden states behind, which the engine scores; for responses that
    were sampled beforehand they are computed ahead of the step, as sampling would have. What it
    costs to keep them is in the tokens per second of `sample`, which is what sampling really does.
    """

    def __init__(self, setting: Setting, rollouts: list[Rollout], rule: str, keep: float):
        self.trainer = our_trainer(setting, rule, keep)
        self.rollouts = rollouts

    def sample(self, step: int) -> int:
        """A rollout of its own, thrown away; returns its tokens."""
        return int(Trainer.rollout(self.trainer, step).mask_BT.sum())

    def prepare(self, step: int) -> None:
        """What sampling leaves behind."""
        trainer, given = self.trainer, self.rollouts[step]
        if trainer.setup.reuses_hidden and trainer.setup.names:
            with torch.no_grad():
                hidden_ND = hidden_states(
                    trainer.student, given, given.mask_BT, trainer.setup.passes
                )
            given = replace(given, student_hidden_ND=hidden_ND)
        self.trainer.rollout = lambda step: given  # type: ignore[method-assign]

    def step(self, step: int, clock: Clock) -> float:
        start = now(clock.device)
        line = self.trainer.step(step)
        total = now(clock.device) - start
        clock.seconds |= {name: s for name, s in line["seconds"].items() if name != "rollout"}
        clock.seconds["logging"] = total - sum(line["seconds"].values())
        return line["loss"]


class Plain:
    """The obvious loop: dense logits of the whole response, AdamW, gradient clipping."""

    def __init__(self, setting: Setting, rollouts: list[Rollout]):
        pair = load(setting)
        self.student, self.teacher, self.tokenizer = pair.student, pair.teacher, pair.tokenizer
        self.stops, self.tokens = list(pair.student_stop_ids), setting.tokens
        self.texts = setting.texts
        self.rollouts = rollouts
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), lr=setting.learning_rate, weight_decay=0.0
        )

    def sample(self, step: int) -> int:
        prompts = self.tokenizer(
            self.texts[step], return_tensors="pt", padding=True, padding_side="left",
            add_special_tokens=False,
        )  # fmt: skip
        width = prompts["input_ids"].shape[1]
        with torch.no_grad():
            output_BL = self.student.generate(
                input_ids=prompts["input_ids"], attention_mask=prompts["attention_mask"],
                do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=self.tokens,
                eos_token_id=self.stops, pad_token_id=self.tokenizer.pad_token_id,
            )[:, width:]  # fmt: skip
        is_stop_BT = torch.isin(output_BL, torch.tensor(self.stops))
        after_BT = is_stop_BT.int().cumsum(1) - is_stop_BT.int()
        return int((after_BT == 0).sum())

    def loss(self, rollout: Rollout) -> torch.Tensor:
        """Mean of KL(p‖q) over the sampled tokens."""
        sequence_BL, mask_BT = rollout.sequence_BL, rollout.mask_BT
        student_BLV = self.student(sequence_BL).logits
        with torch.no_grad():
            teacher_BLV = self.teacher(sequence_BL).logits
        rows, positions = mask_BT.nonzero(as_tuple=True)
        index_N = rollout.prompt_length_B[rows] + positions - 1
        student_NV = student_BLV[rows, index_N].log_softmax(-1)
        teacher_NV = teacher_BLV[rows, index_N].log_softmax(-1)
        return (student_NV.exp() * (student_NV - teacher_NV)).sum(-1).mean()

    def prepare(self, step: int) -> None:
        """Sampling leaves nothing that this loop uses."""

    def step(self, step: int, clock: Clock) -> float:
        with clock.phase("forward"):
            loss = self.loss(self.rollouts[step])
        with clock.phase("backward"):
            loss.backward()
        with clock.phase("update"):
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return float(loss.detach())


def resident(field: str, device: str) -> int:
    """A memory line of /proc/self/status (VmRSS, VmHWM), bytes; on CUDA what the allocator holds,
    or has held at most.
    """
    if device == "cuda":
        peak = field == "VmHWM"
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


class Service:
    """Requests in, replies out, and the measurement around a step."""

    def __init__(self, device: str) -> None:
        self.device = device
        # Libraries print: replies have the real standard output to themselves.
        self.out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def ready(self) -> None:
        """Everything is loaded: the peak of memory counts from here."""
        gc.collect()
        reset_peak_memory(self.device)
        self.send({"ready": True, "resident": resident("VmRSS", self.device)})

    def send(self, reply: dict[str, Any]) -> None:
        self.out.write(json.dumps(reply) + "\n")

    def requests(self) -> Iterator[dict[str, Any]]:
        for line in sys.stdin:
            yield json.loads(line)

    def serve(self, arm: Ours | Plain) -> None:
        self.ready()
        device = torch.device(self.device)
        for step, request in enumerate(self.requests()):
            reply: dict[str, Any] = {}
            if request["rollout"]:
                start = now(device)
                reply["rollout_tokens"] = arm.sample(step)
                reply["rollout_s"] = now(device) - start
            arm.prepare(step)
            clock = Clock(self.device)
            counter = FlopCounterMode(display=False) if request["count"] else None
            start, cpu = now(device), process_time()
            if counter is not None:
                with counter:
                    reply["loss"] = arm.step(step, clock)
                reply["flops"] = counter.get_total_flops()
            else:
                reply["loss"] = arm.step(step, clock)
            reply |= {"step_s": now(device) - start, "cpu_s": process_time() - cpu}
            reply |= {"phases": clock.seconds, "peak": resident("VmHWM", self.device)}
            self.send(reply)


def main() -> None:
    name, folder = sys.argv[1:]
    setting = Setting.read(Path(folder))
    if name == "sample":
        sample(setting, Path(folder))
        return
    rollouts = torch.load(Path(folder, ROLLOUTS), weights_only=False, map_location=setting.device)
    service = Service(setting.device)
    if name == "trl":
        from trl_arm import serve

        serve(service, setting, rollouts)
    elif name == "plain":
        service.serve(Plain(setting, rollouts))
    else:
        rule, keep = name.split("@")
        service.serve(Ours(setting, rollouts, rule, float(keep)))


if __name__ == "__main__":
    main()
