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
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TextIO, cast

from bench.core.errors import ConfigError
from bench.tasks.chat import Chat
from bench.tasks.grader import Graded
from bench.tasks.protocol import DEFAULT_ASKING, TASK_FOLDER, Asking, check_tasks, task_settings
from bench.tasks.responses import Decoding, Response, borrowed, respond
from bench.tasks.results import Sample, TaskResult

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask

    from bench.core.processes import Processes

NOISY_LOGGERS = ("lm_eval", "transformers", "datasets", "huggingface_hub")
Progress = Callable[[str, int, int], None]
Respond = Callable[[Sequence[str], Sequence[str]], list[Response]]


def evaluate(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    stop_ids: Sequence[int],
    asking: Asking = DEFAULT_ASKING,
    batch_size: int = 256,
    limit: int | None = None,
    seed: int = 0,
    log_file: Path | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
) -> dict[str, TaskResult]:
    """Score a loaded transformers model on each task, and leave it and all generators as they were.

    Greedy at temperature 0; else each sample is a function of `seed`, task, item and number alone.
    Before the cap, only the first of `stop_ids` ends a response. `limit` keeps the first items of
    each task. What the libraries print and log is appended to `log_file` (None: dropped);
    `progress(task, done, total)`, called once per batch, prints where it always would. All of
    `processes` call this together, share the work, and get the same results.
    Raises ConfigError for an unknown task, missing data, or a setting out of range.
    """
    check_tasks(tasks)
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: {limit} is not accepted: 1 or more")
    protocols = {}
    for name in dict.fromkeys(tasks):
        own = asking.of(name)
        protocols[name] = own, _decoding(own, stop_ids, batch_size, seed)

    with _quiet(log_file) as aloud, borrowed(model):
        from lm_eval.tasks import TaskManager

        report = aloud(progress or (lambda *_: None))
        manager = TaskManager(include_path=TASK_FOLDER, include_defaults=False)
        results = {}
        for name, (own, decoding) in protocols.items():
            respond_to = partial(
                respond, model, tokenizer, decoding, partial(report, name), processes=processes
            )
            task = cast("ConfigurableTask", manager.load(name)["tasks"][name])
            task.set_config("repeats", own.samples)
            chat = own.chat if task_settings(name).chat else None
            results[name] = _run_task(task, _Student(tokenizer, chat, respond_to), decoding, limit)
        return results


def _decoding(own: Asking, stop_ids: Sequence[int], batch_size: int, seed: int) -> Decoding:
    """How a task's responses are sampled."""
    assert own.temperature is not None and own.top_p is not None
    return Decoding(
        tuple(stop_ids), own.max_new_tokens, own.temperature, own.top_p, batch_size, seed
    )


class _Student:
    """Answers lm-eval's requests, and keeps the responses in the order in which it asked."""

    def __init__(self, tokenizer: Any, chat: Chat | None, respond_to: Respond):
        self.tokenizer, self.chat, self.respond_to = tokenizer, chat, respond_to
        self.responses: list[Response] = []

    def answer(self, requests: Sequence[Instance]) -> list[str]:
        prompts, keys = [], []
        asked: Counter[str] = Counter()
        for request in requests:
            message, item = request.args[0], request.doc["id"]
            prompts.append(self.chat.text(self.tokenizer, message) if self.chat else message)
            keys.append(f"{request.task_name}/{item}/{asked[item]}")
            asked[item] += 1
        self.responses = self.respond_to(prompts, keys)
        return [response.text for response in self.responses]


def _run_task(
    task: ConfigurableTask, student: _Student, decoding: Decoding, limit: int | None
) -> TaskResult:
    """Have lm-eval ask the questions of `task` and score what the student answers."""
    from lm_eval import evaluator
    from lm_eval.api.model import LM

    class Asked(LM):
        def generate_until(self, requests: list[Instance]) -> list[str]:
            return student.answer(requests)

        def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
            raise NotImplementedError("every task of this project generates")

        def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
            raise NotImplementedError("every task of this project generates")

    name = task.task_name
    metric = cast("list[dict[str, str]]", task.config.metric_list)[0]["metric"]
    n_items, k = len(task.eval_docs), task.config.repeats
    # simple_evaluate would seed the global generators, call git and describe the machine: seconds
    # that belong to no result.
    output = cast(
        "dict[str, Any]",
        evaluator.evaluate(Asked(), {"tasks": {name: task}}, limit=limit, bootstrap_iters=0),
    )
    items = output["samples"][name]
    result = TaskResult(
        task=name,
        metric=metric,
        n=n_items if limit is None else min(limit, n_items),
        k=k,
        mean=output["results"][name][f"{metric},none"],
        pass_at_k=output["results"][name]["pass_at_k,none"],
        score_I=tuple(item[metric] for item in items),
        item_id_I=tuple(item["doc"]["id"] for item in items),
        sample_IK=tuple(
            tuple(map(_sample, student.responses[row * k :][:k], item["filtered_resps"][0]))
            for row, item in enumerate(items)
        ),
        temperature=decoding.temperature,
        top_p=decoding.top_p,
    )
    _check(result)
    return result


def _sample(response: Response, graded: Graded) -> Sample:
    return Sample(**vars(response), answer=graded.answer, verdict=graded.verdict)


def _check(result: TaskResult) -> None:
    """lm-eval's scores are those of the samples: nothing was dropped or put in another order."""
    right_IK = [[s.verdict == "right" for s in samples] for samples in result.sample_IK]
    for name, told, own in (
        ("mean", result.mean, fmean(map(fmean, right_IK))),
        ("pass@k", result.pass_at_k, fmean(map(any, right_IK))),
        ("score", fmean(result.score_I), fmean(map(fmean, right_IK))),
    ):
        if not math.isclose(told, own, abs_tol=1e-12):
            raise RuntimeError(f"{result.task}: lm-eval's {name} {told} is not that of its samples")


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
