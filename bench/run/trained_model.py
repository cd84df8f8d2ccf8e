"""Trained models on disk: saved, found, scored again, merged."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bench.core.config import Experiment, Runtime
from bench.core.errors import BenchError, ConfigError
from bench.core.files import folder_written_whole
from bench.core.processes import Processes, make_accelerator
from bench.core.progress import open_progress
from bench.core.records import RunFolder, find_run
from bench.core.stats import mean_estimate
from bench.pairs.adapters import is_adapter
from bench.pairs.agreement import pair_chat, stop_ids
from bench.pairs.models import load_model, load_tokenizer
from bench.pairs.pair import alone, pair_of
from bench.run.evaluations import Evaluations, Results
from bench.tasks.protocol import asking_of, check_tasks, task_settings


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    state: dict[str, Any] | None = None,
) -> None:
    """The final checkpoint, which transformers loads by itself; whole or not there at all.

    Of a model with adapters, only they are saved, and the base's name with them. `state` are the
    weights where the model itself holds a part of them.
    """
    try:
        with folder_written_whole(folder) as temporary:
            model.save_pretrained(temporary, state_dict=_written_once(model, state))
            tokenizer.save_pretrained(temporary)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BenchError(f"the model could not be saved in {folder}: {error}") from error


def _written_once(model: PreTrainedModel, state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Weights gathered from several processes, without a tied one's second name: it is no longer
    the same memory, by which transformers would know it.
    """
    if state is None:
        return None
    tied = model.all_tied_weights_keys
    return {name: value for name, value in state.items() if tied.get(name) not in state}


def evaluate_checkpoint(
    path: str, runtime: Runtime, tasks: Sequence[str] = (), **changes: Any
) -> Results:
    """Score a run (its id or folder), a local model folder, or a hub id.

    What is not given is the run's own; for other models, the defaults of Experiment. `changes` are
    Experiment fields: eval_items, eval_samples, eval_temperature, eval_top_p, eval_max_new_tokens,
    chat, thinking.
    Raises ConfigError for a path that holds no model, and for one that could not end a response.
    """
    where, settings = find_checkpoint(path, runtime)
    check_tasks(list(tasks))
    given = {name: value for name, value in changes.items() if value is not None}
    experiment = Experiment.parse({**settings, **given})
    pair = pair_of(experiment) if settings else alone(where, experiment)
    model, tokenizer = load_model(where, merge=False), load_tokenizer(where)
    stops = pair.stop_ids.get("student") or stop_ids(model, tokenizer)
    size = min(len(tokenizer), model.config.vocab_size)
    if not any(stop < size for stop in stops):
        raise ConfigError(
            f"path: {path!r} can end no response: its stop tokens {list(stops)} lie outside its "
            f"{size:,} ids; mend eos_token_id in its files"
        )
    positions = model.config.max_position_embeddings
    if experiment.eval_max_new_tokens is not None and experiment.eval_max_new_tokens >= positions:
        raise ConfigError(
            f"max_new_tokens: {experiment.eval_max_new_tokens} is not accepted: {path!r} has "
            f"{positions} positions, for a problem and its answer"
        )
    accelerator = make_accelerator(experiment, runtime)
    model = model.to(accelerator.device)
    with open_progress(runtime.progress) as progress:
        asking = asking_of(experiment, pair_chat(pair, tokenizer))
        evaluations = Evaluations(runtime, asking, None, progress, Processes(accelerator))
        return evaluations.examine(
            model, tokenizer, tasks or experiment.eval_tasks, stops, Path(path).name,
            experiment.eval_items,
        )  # fmt: skip


def find_checkpoint(path: str, runtime: Runtime) -> tuple[str, dict[str, Any]]:
    """(model folder or hub id, settings of the run) of a run, a local folder, or a hub id.

    Raises ConfigError for a path that is neither, and for a run that is not finished.
    """
    folder = find_run(path, runtime.runs_dir)
    if folder is None:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", path) or path.startswith("."):
            raise ConfigError(f"path: {path!r} is no run, no folder, and no hub id (owner/name)")
        return path, {}
    if not (folder / "experiment.json").is_file():
        return str(folder), {}
    if not (folder / "model").is_dir():
        raise ConfigError(f"run {path!r} has no trained model yet; finish it first")
    return str(folder / "model"), RunFolder(folder).read_settings()


def merge_checkpoint(path: str, out: Path, runtime: Runtime) -> None:
    """Write a run's adapter, merged into its base, as a model that transformers alone loads.

    Raises ConfigError for a checkpoint without an adapter, and for a folder that is there already.
    """
    where, _ = find_checkpoint(path, runtime)
    if not is_adapter(where):
        raise ConfigError(f"path: {path!r} holds no adapter; it is a whole model as it is")
    if out.exists():
        raise ConfigError(f"out: {str(out)!r} is there already; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_model(load_model(where), load_tokenizer(where), out)


def scores_of(results: Results) -> dict[str, dict[str, Any]]:
    """task -> mean, n, ci95 and the rates that qualify it."""
    scores = {}
    for task, result in results.items():
        estimate = mean_estimate(result.score_I)
        scores[task] = {
            "mean": estimate.mean,
            "n": estimate.n,
            "ci95": list(estimate.ci95),
            "metric": result.metric,
            "parse_failure_rate": result.parse_failure_rate,
            "truncation_rate": result.truncation_rate,
            "mean_response_tokens": result.mean_response_tokens,
            "pass_at_k": result.pass_at_k,
        }
        if task_settings(task).data or result.temperature:
            scores[task] |= {
                "samples": result.k,
                "temperature": result.temperature,
                "top_p": result.top_p,
                "comparison_failure_rate": result.comparison_failure_rate,
            }
    return scores
