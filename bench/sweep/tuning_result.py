"""tuning.json: what a tuning found, written once, checked where it is read, put into points."""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from bench.core.config import Runtime, rows_file
from bench.core.errors import ConfigError
from bench.core.files import json_text, read_json, write_json, write_text
from bench.core.sums import changed_files, write_sums
from bench.run.plan import make_plan
from bench.sweep.sweep_file import Sweep
from bench.sweep.tuning import cell_name, cells, counted, opened, tuning_folder


def check_replaces(sweep: Sweep, runtime: Runtime) -> None:
    """Raise ConfigError where the result beside the rows is of more trials or of other cells."""
    assert sweep.file.tuning is not None
    path, trials = _beside_rows(sweep, runtime), sweep.file.tuning.trials
    if not path.is_file():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        is_less = trials < there["trials"] or set(there["cells"]) - set(cells(sweep))
    except (ValueError, KeyError, TypeError):
        is_less = True
    if is_less:
        raise ConfigError(
            f"tuning: {str(path)!r} holds another tuning, of more than {trials} trials or of other "
            "cells: move it, or name rows in another folder"
        )


def _beside_rows(sweep: Sweep, runtime: Runtime) -> Path:
    """Where `bench leaderboard` looks for the result of a tuning."""
    return rows_file(runtime).parent / "tuning" / f"{sweep.file.name}.json"


def write_result(sweep: Sweep, storage: str | None, runtime: Runtime) -> Path:
    """tuning.json once every cell has spent its budget. Raises ConfigError for a cell without one
    complete trial."""
    tuning, folder = sweep.file.tuning, tuning_folder(sweep, runtime)
    assert tuning is not None
    records = {}
    points = {cell_name(plan.experiment): plan.experiment for plan in sweep.plans}
    for name, cell in cells(sweep).items():
        with opened(cell, tuning, storage, folder) as study:
            trials = counted(study)
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if not complete:
            errors = {trial.user_attrs.get("error", trial.state.name) for trial in trials}
            raise ConfigError(f"tuning: no trial of {name} was completed: {'; '.join(errors)}")
        records[name] = {
            "experiment": points[name].model_dump(mode="json"),
            **(_front(complete) if tuning.has_front else _best(complete)),
            "trials": [_trial(trial, tuning.has_front) for trial in trials],
        }
    ranges = {name: span.model_dump(exclude_unset=True) for name, span in tuning.ranges.items()}
    budget = {"sweep": sweep.file.name, **tuning.model_dump(), "ranges": ranges}
    result = {**budget, "cells": records}
    beside_rows = _beside_rows(sweep, runtime)
    beside_rows.parent.mkdir(parents=True, exist_ok=True)
    write_json(beside_rows, result)
    text = json_text(result)
    # The sum first: a result without one is of an earlier version, and counts as it is.
    write_sums(folder.path, {folder.result.name: hashlib.sha256(text.encode()).hexdigest()})
    write_text(folder.result, text)
    return folder.result


def _best(complete: Sequence[FrozenTrial]) -> dict[str, Any]:
    """The first of the trials with the highest value."""
    winner = max(complete, key=lambda trial: (trial.value, -trial.number))
    return {"best": winner.params, "value": winner.value}


def _front(complete: Sequence[FrozenTrial]) -> dict[str, Any]:
    """The trials that none is better than in every objective, from the cheapest up; of equal values
    the first trial."""
    points: dict[tuple[float, ...], FrozenTrial] = {}
    for trial in sorted(complete, key=lambda trial: trial.number):
        points.setdefault(tuple(trial.values), trial)
    kept = [
        trial
        for values, trial in points.items()
        if not any(_dominates(other, values) for other in points if other != values)
    ]
    kept.sort(key=lambda trial: (trial.values[1:], -trial.values[0]))
    return {"front": [{"params": t.params, "values": t.values} for t in kept]}


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """At least as accurate and as cheap in everything: accuracy up, costs down."""
    return one[0] >= other[0] and all(a <= b for a, b in zip(one[1:], other[1:], strict=True))


def _trial(trial: FrozenTrial, has_front: bool) -> dict[str, Any]:
    value = {"values": trial.values} if has_front else {"value": trial.value}
    return {"params": trial.params, **value, "state": trial.state.name.lower()}


def has_result(sweep: Sweep, runtime: Runtime) -> bool:
    """Is the tuning done? A damaged result is set aside, and said: its study gives it again."""
    folder = tuning_folder(sweep, runtime)
    if not folder.result.exists():
        return False
    if not changed_files(folder.path):
        return True
    aside = folder.result.with_name(f".damaged-{folder.result.name}")
    folder.result.replace(aside)
    print(f"{folder.result} is damaged and set aside as {aside}", file=sys.stderr)
    return False


def tuned(sweep: Sweep, runtime: Runtime) -> Sweep:
    """The sweep's own points, seeds and all, each with its cell's best values, or with those of
    every point of its front."""
    result, plans = tuning_folder(sweep, runtime).result, []
    cells_found = read_json(result)
    for plan in sweep.plans:
        try:
            cell = cells_found["cells"][cell_name(plan.experiment)]
            found = (
                [point["params"] for point in cell["front"]] if "front" in cell else [cell["best"]]
            )
            chosen = [dict(values) for values in found]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{str(result)!r} is damaged: {error!r}; delete it, and the same command writes it "
                "again"
            ) from error
        plans += [make_plan(plan.experiment.model_copy(update=v), runtime) for v in chosen]
    return replace(sweep, plans=tuple({plan.run_id: plan for plan in plans}.values()))
