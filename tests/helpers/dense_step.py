"""Training steps computed anew from the settings: whole sequences, whole vocabularies, sorting.

Of the package only the settings, the keyed random numbers and the problems are used.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from dense_losses import LOSSES, among_top, at, entropy, kl
from torch import Tensor
from torch.func import functional_call
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.core.config import Experiment
from bench.core.randomness import keyed_bits, keyed_uniform
from bench.tasks.arithmetic import make_problem, prompt_text
from bench.train.rollout import Rollout


@dataclass(frozen=True)
class Tokens:
    """The N sampled tokens of a step, row by row."""

    p: Tensor
    """log p, float64 (N, V), with gradient."""
    q: Tensor
    y: Tensor
    row: Tensor
    position: Tensor


def clipped(x: Tensor, padding: int) -> Tensor:
    """x between its 5 % and 95 % quantiles, 0 to 1; so many zeros count among the values."""
    values = torch.cat([x, x.new_zeros(padding)])
    low, high = torch.quantile(values, torch.tensor([0.05, 0.95], dtype=x.dtype))
    return ((x - low) / (high - low)).clamp(0, 1)


def scores(tokens: Tokens, selector: str, k: int, padding: int = 0, **params: float) -> list[float]:
    """Of the few rules that the proofs use."""
    p, q, y = tokens.p.detach(), tokens.q, tokens.y
    match selector:
        case "full":
            found = torch.zeros(len(y))
        case "first":
            found = -tokens.position
        case "entropy":
            found = entropy(p)
        case "teachability_raw":
            found = kl(q, p) * (among_top(p, k) * q.exp()).sum(-1)
        case "teachability":
            mass = (among_top(p, k) * q.exp()).sum(-1)
            found = clipped(kl(q, p), padding) * clipped(mass, padding)
        case "zscore_mix":
            parts = {"entropy": entropy(p), "surprise": -at(p, y), "divergence": kl(q, p)}
            found = sum(
                params.get(name, 1.0) * (x - x.mean()) / x.std(correction=0)
                for name, x in parts.items()
            )
        case _:
            raise ValueError(selector)
    return found.tolist()


def chosen(experiment: Experiment, tokens: Tokens, sample: Rollout, step: int) -> Tensor:
    """bool (N,): the best of the batch, or of each response, and each response's minimum."""
    keep = 1.0 if experiment.selector == "full" else experiment.keep
    shape = (len(sample.row_key_B), sample.mask_BT.shape[1])
    padding = shape[0] * shape[1] - len(tokens.y) if experiment.population == "rows" else 0
    own, fill = experiment.selector, experiment.refill
    score = scores(tokens, own, experiment.k, padding, **experiment.selector_params)
    filling = score if fill == "own" else scores(tokens, fill, experiment.k, padding)
    hashed = keyed_bits(experiment.seed, "tie", step, sample.row_key_B, shape)
    places = list(zip(tokens.row.tolist(), tokens.position.tolist(), strict=True))

    def rank(n: int, score: list[float]) -> tuple:
        row, position = places[n]
        earlier = (position, row)
        return (-score[n], int(hashed[row, position]) if experiment.ties == "hash" else earlier)

    order = sorted(range(len(places)), key=lambda n: rank(n, score))
    rows = [[n for n in order if places[n][0] == row] for row in range(shape[0])]
    units = [order] if experiment.scope == "batch" else rows
    found = torch.zeros(len(places), dtype=torch.bool)
    for unit in units:
        found[unit[: math.ceil(Fraction(str(keep)) * len(unit))]] = True
    for row in rows:
        if fill == "own" or not found[row].any():
            best = sorted(row, key=lambda n: rank(n, filling))
            found[best[: experiment.min_keep_per_response]] = True
    return found


def normalised(loss: Tensor, selected: Tensor, row: Tensor, normalize: str) -> Tensor:
    """The loss of the batch, from those of its N tokens."""
    if normalize == "per_response":
        means = [loss[selected & (row == r)].mean() for r in row[selected].unique()]
        return torch.stack(means).mean()
    return loss[selected].sum() / (selected.sum() if normalize == "selected" else len(loss))


def rate(experiment: Experiment, step: int) -> float:
    """The learning rate of step `step` (from 0)."""
    warmup = experiment.warmup_steps
    if step < warmup:
        return experiment.learning_rate * step / warmup
    passed = (step - warmup) / (experiment.steps - warmup)
    shapes = {"constant": 1, "linear": 1 - passed, "cosine": (1 + math.cos(math.pi * passed)) / 2}
    return experiment.learning_rate * shapes[experiment.schedule]


class DenseRun:
    """An experiment on a pair in folders, step by step. `adapters` are those it starts from."""

    def __init__(self, experiment: Experiment, adapters: dict[str, Tensor]):
        self.experiment = experiment
        folders = {
            side: Path(getattr(experiment, side) or f"{experiment.pair}/{side}")
            for side in ("teacher", "student")
        }
        self.student, self.teacher = (
            AutoModelForCausalLM.from_pretrained(folders[side], dtype=torch.float32).eval()
            for side in ("student", "teacher")
        )
        self.tokenizer = AutoTokenizer.from_pretrained(folders["student"])
        self.base = dict(self.student.named_parameters())
        start = adapters or self.base
        self.trained = {name: w.detach().clone().requires_grad_() for name, w in start.items()}
        self.moments = dict.fromkeys(start, (0.0, 0.0))
        self.updates = 0

    def weights(self) -> dict[str, Tensor]:
        """Those that are trained, or those that the adapters are added to."""
        experiment = self.experiment
        if not experiment.lora:
            return self.trained
        found = {}
        for name, value in self.base.items():
            path = name.removesuffix(".weight")
            if path.rpartition(".")[2] in experiment.lora_targets:
                a, b = (self.trained[f"{path}.lora_{x}.default.weight"] for x in "AB")
                assert a.shape[0] == b.shape[1] == experiment.lora
                found[name] = value.detach() + experiment.lora_alpha / experiment.lora * b @ a
        return found

    def logits(self, model, weights: dict[str, Tensor], sequence: Tensor) -> Tensor:
        """(L, V) of one sequence, over the ids that the tokenizer has."""
        is_half = self.experiment.dtype == "bfloat16"
        half = torch.autocast("cpu", dtype=torch.bfloat16) if is_half else nullcontext()
        with half:
            found = functional_call(model, weights, (), {"input_ids": sequence[None]}).logits[0]
        return found[:, : len(self.tokenizer)].double()

    def responses(self, step: int) -> dict[str, tuple[list[int], list[int]]]:
        """key -> the prompt's and the response's tokens, sampled one after another."""
        experiment, found = self.experiment, {}
        for i in range(experiment.prompts_per_step):
            number = step * experiment.prompts_per_step + i
            problem = make_problem("train", number, experiment.seed)
            for n in range(experiment.responses_per_prompt):
                key = f"{problem.id}/{n}"
                prompt = self.tokenizer(prompt_text(problem), add_special_tokens=False)["input_ids"]
                found[key] = (prompt, self.response(prompt, key, step))
        return found

    def response(self, prompt: list[int], key: str, step: int) -> list[int]:
        """Each token where the distribution function passes its uniform number, up to a stop."""
        experiment, found = self.experiment, []
        stops = experiment.stop_ids or (self.tokenizer.eos_token_id,)
        shape = (1, experiment.max_new_tokens)
        for uniform in keyed_uniform(experiment.seed, "rollout", step, [key], shape)[0].tolist():
            with torch.no_grad():
                logits = self.logits(self.student, self.weights(), torch.tensor(prompt + found))
            passed = (logits[-1] / experiment.temperature).softmax(-1).cumsum(-1) > uniform
            found.append(int(passed.double().argmax()))
            if found[-1] in stops:
                break
        return found

    def tokens(self, sample: Rollout) -> Tokens:
        """log p and log q of every sampled token, from one unpadded sequence after another."""
        parts = []
        for row, length in enumerate(sample.mask_BT.sum(1).tolist()):
            start = int(sample.prompt_length_B[row])
            sequence = sample.sequence_BL[row, : start + length]
            here = slice(start - 1, start + length - 1)
            p = self.logits(self.student, self.weights(), sequence)[here]
            with torch.no_grad():
                q = self.logits(self.teacher, {}, sequence)[here]
            parts.append((
                p - p.logsumexp(-1, keepdim=True), q - q.logsumexp(-1, keepdim=True),
                sequence[start:], torch.full((length,), row), torch.arange(length),
            ))  # fmt: skip
        return Tokens(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def step(self, sample: Rollout, step: int) -> tuple[float, float, Tensor]:
        """One update; returns loss, the gradient's norm, and which tokens were selected, (N,)."""
        experiment = self.experiment
        tokens = self.tokens(sample)
        selected = chosen(experiment, tokens, sample, step)
        loss_of = LOSSES[experiment.objective]
        loss_N = loss_of(tokens.p, tokens.q, tokens.y, **experiment.objective_params)
        loss = normalised(loss_N, selected, tokens.row, experiment.normalize)
        gradients = torch.autograd.grad(loss, list(self.trained.values()))
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
        self.update(gradients, norm, step)
        return float(loss.detach()), norm, selected

    def update(self, gradients: tuple[Tensor, ...], norm: float, step: int) -> None:
        """AdamW on the clipped gradient; only matrices decay."""
        experiment = self.experiment
        beta1, beta2 = experiment.adam_beta1, experiment.adam_beta2
        factor = min(1.0, experiment.gradient_clip / norm) if experiment.gradient_clip else 1.0
        self.updates += 1
        for (name, weight), gradient in zip(self.trained.items(), gradients, strict=True):
            g = factor * gradient
            first, second = self.moments[name]
            first, second = beta1 * first + (1 - beta1) * g, beta2 * second + (1 - beta2) * g * g
            self.moments[name] = first, second
            mean, square = first / (1 - beta1**self.updates), second / (1 - beta2**self.updates)
            decay = experiment.weight_decay if weight.ndim > 1 else 0.0
            change = mean / (square.sqrt() + 1e-8) + decay * weight
            weight.data = weight.data - rate(experiment, step) * change.detach()
