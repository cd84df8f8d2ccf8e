"""A loaded model and task names -> one TaskResult per task, scored by lm-eval.

The only file that imports lm_eval. lm-eval owns the task files (`bench/tasks`), the prompts built
from them, the scores and their order; the responses are generated here, because its own model
wrapper hides the token ids (so truncation and length), stops on text instead of token ids, lets the
model's generation_config in, and changes tokenizer and model on the way.
"""

from __future__ import annotations

import logging
import math
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Self, TextIO, cast

from bench.config import ConfigError, unknown_name

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask

TASK_FOLDER = Path(__file__).parent / "tasks"
PARSE_FAILURE = "parse_failure"  # the metric by this name of every task file
NOISY_LOGGERS = ("lm_eval", "transformers", "datasets", "huggingface_hub")

Progress = Callable[[str, int, int], None]
Respond = Callable[[Sequence[str]], list["_Response"]]


@dataclass(frozen=True)
class TaskResult:
    """How a model did on one task; per-item values are in the task's item order."""

    task: str
    metric: str
    n: int
    mean: float
    score_I: tuple[float, ...]
    item_id_I: tuple[str, ...]
    parse_failure_rate: float
    """Share of responses from which no answer could be extracted."""
    truncation_rate: float
    """Share of responses that reached max_new_tokens without a stop token."""
    mean_response_tokens: float
    """The stop token counts, as it does in a rollout's mask."""
    response_I: tuple[str, ...]
    """Text before the stop token."""

    def __post_init__(self) -> None:
        lengths = len(self.score_I), len(self.item_id_I), len(self.response_I)
        if lengths != (self.n,) * 3:
            raise ValueError(
                f"{self.task}: n is {self.n}, but there are {lengths[0]} scores, {lengths[1]} item "
                f"ids and {lengths[2]} responses"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values that survive a JSON round trip."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**fields)


@dataclass(frozen=True)
class _Decoding:
    """Everything generation depends on, besides model and prompts."""

    stop_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float
    batch_size: int
    seed: int


@dataclass(frozen=True)
class _Response:
    text: str
    tokens: int
    is_truncated: bool


def task_names() -> list[str]:
    """The tasks of this project: one file each, named after it."""
    return sorted(file.stem for file in TASK_FOLDER.glob("*.yaml") if not file.stem.startswith("_"))


def check_tasks(names: Sequence[str]) -> None:
    """Raise ConfigError for the first name that is no task, suggesting the nearest."""
    known = task_names()
    for name in names:
        if name not in known:
            raise unknown_name("task", name, known)


def evaluate(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    stop_ids: Sequence[int],
    batch_size: int = 256,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    limit: int | None = None,
    seed: int = 0,
    log_file: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, TaskResult]:
    """Score a loaded transformers model on each task, and leave it and all generators as they were.

    Greedy at temperature 0, else sampled from the whole distribution; the draw is a function of
    `seed`, but also of `batch_size` and `limit`. Before `max_new_tokens`, only the first of
    `stop_ids` ends a response. `limit` keeps the first items of each task. What the libraries print
    and log is appended to `log_file` (None: dropped); `progress(task, done, total)`, called once
    per batch, prints where it always would.
    Raises ConfigError for an unknown task or a setting out of range.
    """
    check_tasks(tasks)
    decoding = _Decoding(tuple(stop_ids), max_new_tokens, temperature, batch_size, seed)
    _check_settings(decoding, limit)

    with _quiet(log_file) as aloud, _borrowed(model):
        from lm_eval.tasks import TaskManager

        report = aloud(progress or (lambda *_: None))
        manager = TaskManager(include_path=TASK_FOLDER, include_defaults=False)
        results = {}
        for name in dict.fromkeys(tasks):
            respond = partial(_respond, model, tokenizer, decoding, partial(report, name))
            task = cast("ConfigurableTask", manager.load(name)["tasks"][name])
            results[name] = _run_task(task, respond, limit)
        return results


def _check_settings(decoding: _Decoding, limit: int | None) -> None:
    if not decoding.stop_ids:
        raise ConfigError("stop_ids: none given; without one every response counts as truncated")
    counts = {"batch_size": decoding.batch_size, "max_new_tokens": decoding.max_new_tokens}
    if limit is not None:
        counts["limit"] = limit
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name}: {value} is not accepted: 1 or more")
    if not 0 <= decoding.temperature < math.inf:
        raise ConfigError(f"temperature: {decoding.temperature} is not accepted: 0 or more")


def _run_task(task: ConfigurableTask, respond: Respond, limit: int | None) -> TaskResult:
    """Have lm-eval ask the questions of `task` and score what `respond` answers."""
    from lm_eval import evaluator
    from lm_eval.api.model import LM

    responses: list[_Response] = []

    class Student(LM):
        def generate_until(self, requests: list[Instance]) -> list[str]:
            answers = respond([request.args[0] for request in requests])
            responses.extend(answers)
            return [answer.text for answer in answers]

        def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
            raise NotImplementedError("every task of this project generates")

        def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
            raise NotImplementedError("every task of this project generates")

    name = task.task_name
    metric = cast("list[dict[str, str]]", task.config.metric_list)[0]["metric"]
    n_items = len(task.eval_docs)
    # simple_evaluate would seed the global generators, call git and describe the machine: seconds
    # that belong to no result.
    output = cast(
        "dict[str, Any]",
        evaluator.evaluate(Student(), {"tasks": {name: task}}, limit=limit, bootstrap_iters=0),
    )
    samples = output["samples"][name]
    result = TaskResult(
        task=name,
        metric=metric,
        n=n_items if limit is None else min(limit, n_items),
        mean=output["results"][name][f"{metric},none"],
        score_I=tuple(sample[metric] for sample in samples),
        item_id_I=tuple(sample["doc"]["id"] for sample in samples),
        parse_failure_rate=fmean(sample[PARSE_FAILURE] for sample in samples),
        truncation_rate=fmean(response.is_truncated for response in responses),
        mean_response_tokens=fmean(response.tokens for response in responses),
        response_I=tuple(sample["resps"][0][0] for sample in samples),
    )
    if not math.isclose(result.mean, fmean(result.score_I), abs_tol=1e-12):
        raise RuntimeError(f"{name}: lm-eval's mean {result.mean} is not that of its items")
    return result


def _respond(
    model: Any,
    tokenizer: Any,
    decoding: _Decoding,
    report: Callable[[int, int], None],
    prompts: Sequence[str],
) -> list[_Response]:
    """One response per prompt, in order; the longest prompts are answered first."""
    import torch

    prompt_ids = tokenizer(
        list(prompts), add_special_tokens=False, padding=False, truncation=False
    )["input_ids"]
    rows = sorted(range(len(prompts)), key=lambda row: -len(prompt_ids[row]))
    pad_id = decoding.stop_ids[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    response_ids: dict[int, list[int]] = {}
    torch.manual_seed(decoding.seed)
    report(0, len(rows))
    for first in range(0, len(rows), decoding.batch_size):
        batch = rows[first : first + decoding.batch_size]
        generated = _generate(
            model, [prompt_ids[row] for row in batch], pad_id, len(tokenizer), decoding
        )
        response_ids.update(zip(batch, generated, strict=True))
        report(len(response_ids), len(rows))
    return [_read(tokenizer, response_ids[row], decoding) for row in range(len(rows))]


def _generate(
    model: Any, prompt_ids: list[list[int]], pad_id: int, vocabulary: int, decoding: _Decoding
) -> list[list[int]]:
    """Token ids after each prompt; a row's first stop token ends it, the rest is padding.

    Padded rows of the head, beyond the tokenizer's `vocabulary`, are no tokens: never generated.
    """
    import torch

    width = max(len(ids) for ids in prompt_ids)
    padded = [[pad_id] * (width - len(ids)) + ids for ids in prompt_ids]
    is_prompt = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompt_ids]
    sampling: dict[str, Any] = {"do_sample": False}
    if decoding.temperature > 0:
        sampling = {"do_sample": True, "temperature": decoding.temperature}
        sampling |= {"top_p": 1.0, "top_k": 0}
    output = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(is_prompt, device=model.device),
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=list(decoding.stop_ids),
        pad_token_id=pad_id,
        suppress_tokens=list(range(vocabulary, model.config.vocab_size)) or None,
        num_beams=1,
        repetition_penalty=1.0,
        use_cache=True,
        **sampling,
    )
    return output[:, width:].tolist()


def _read(tokenizer: Any, token_ids: list[int], decoding: _Decoding) -> _Response:
    stops = (place for place, token in enumerate(token_ids) if token in decoding.stop_ids)
    stop = next(stops, None)
    # Special tokens stay visible: dropping one could glue two numbers together.
    text = tokenizer.decode(
        token_ids[:stop], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    tokens = len(token_ids) if stop is None else stop + 1
    return _Response(text=text, tokens=tokens, is_truncated=stop is None)


@contextmanager
def _borrowed(model: Any) -> Iterator[None]:
    """Evaluation mode and an empty generation_config; those and all random generators are put back.

    `generate` fills whatever a caller leaves unset from the model's own generation_config.
    """
    import numpy as np
    import torch

    was_training = [(module, module.training) for module in model.modules()]
    generation_config = model.generation_config
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            model.eval()
            model.generation_config = type(generation_config)()
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        model.generation_config = generation_config
        for module, is_training in was_training:
            module.training = is_training


class _Diverted:
    """A standard stream whose text goes to a log instead: the text of the thread that made it.

    Other threads, such as one that draws a progress bar, still write to the stream, and so does
    whoever kept this object after the log was closed.
    """

    def __init__(self, stream: TextIO, log: TextIO) -> None:
        self._stream, self._log, self._thread = stream, log, threading.get_ident()

    def _target(self) -> TextIO:
        is_ours = threading.get_ident() == self._thread and not self._log.closed
        return self._log if is_ours else self._stream

    def write(self, text: str) -> int:
        return self._target().write(text)

    def flush(self) -> None:
        self._target().flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _quiet(log_file: Path | None) -> Iterator[Callable[[Progress], Progress]]:
    """Send what this thread prints and the libraries log to `log_file`.

    Yields a wrapper for a function that is to print to the real streams meanwhile.
    """
    out, err = sys.stdout, sys.stderr

    def aloud(function: Progress) -> Progress:
        def call(task: str, done: int, total: int) -> None:
            with redirect_stdout(out), redirect_stderr(err):
                function(task, done, total)

        return call

    with ExitStack() as stack:
        log = stack.enter_context(open(log_file or os.devnull, "a", encoding="utf-8"))
        stack.enter_context(redirect_stdout(_Diverted(out, log)))
        stack.enter_context(redirect_stderr(_Diverted(err, log)))
        handler = logging.StreamHandler(log)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        for name in NOISY_LOGGERS:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            stack.callback(setattr, logger, "handlers", logger.handlers)
            stack.callback(setattr, logger, "propagate", logger.propagate)
            logger.handlers, logger.propagate = [handler], False
        logging.getLogger("lm_eval").setLevel(logging.INFO)
        yield aloud
