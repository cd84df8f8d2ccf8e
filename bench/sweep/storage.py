"""Optuna studies: on a journal in a folder, or on any RDB that several machines share."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from bench.core.errors import ConfigError

HEARTBEAT_S = 30
"""Seconds between heartbeats on an RDB; a trial silent for three of them is taken for dead."""
DEATHS = 3
"""Deaths of a point's process in a row, without a step more, after which the point has failed."""


class TrialFault(Exception):
    """A trial that failed by its own fault: recorded, and the sweep goes on."""


def open_study(
    name: str,
    storage: str | None,
    folder: Path,
    sampler: optuna.samplers.BaseSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
) -> optuna.Study:
    """A study that maximises, made if it is not there. Raises ConfigError for a bad storage."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=name,
        storage=_open_storage(storage, folder),
        direction="maximize",
        sampler=sampler,
        pruner=pruner,
        load_if_exists=True,
    )


def find_study(name: str, storage: str | None, folder: Path) -> optuna.Study | None:
    """A study that is there already; makes none."""
    file = folder / "journal.log" if storage is None else Path(storage)
    if "://" not in str(storage) and not file.exists():
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.load_study(study_name=name, storage=_open_storage(storage, folder))
    except KeyError:
        return None


def _open_storage(url: str | None, folder: Path) -> optuna.storages.BaseStorage:
    """A journal in the folder when no URL is given; a journal file; or an RDB."""
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    if "://" not in url:
        return JournalStorage(JournalFileBackend(url))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats
            return RDBStorage(
                url,
                heartbeat_interval=HEARTBEAT_S,
                grace_period=3 * HEARTBEAT_S,
                heartbeat_stale_trial_callback=_enqueue_again,
            )
    except Exception as error:
        raise ConfigError(
            f"storage: {url!r} cannot be opened: {str(error).splitlines()[0]}"
        ) from error


def _enqueue_again(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """What happens to the point of a trial whose heart stopped, on whatever machine."""
    kept = {k: v for k, v in trial.user_attrs.items() if k in ("run_id", "experiment")}
    study.enqueue_trial(trial.params, user_attrs=kept | history(trial.user_attrs, died=True))


def history(attributes: Mapping[str, Any], *, died: bool) -> dict[str, Any]:
    """What a point's next trial is told of this one: the steps it began with, and the deaths."""
    kept = {name: attributes[name] for name in ("steps", "deaths") if name in attributes}
    return {**kept, "deaths": kept.get("deaths", 0) + died}


def refuse_deadly(trial: optuna.Trial, folder: Path, steps: int) -> None:
    """Raise TrialFault for a point whose process died DEATHS times in a row without a step more.

    `steps` are those that its run folder has now: more than the last trial began with, and the
    count starts again.
    """
    before = trial.user_attrs.get("steps", steps)
    deaths = 0 if steps > before else trial.user_attrs.get("deaths", 0)
    trial.set_user_attr("steps", max(steps, before))
    trial.set_user_attr("deaths", deaths)
    if deaths >= DEATHS:
        trial.set_user_attr(
            "error",
            f"its process died {deaths} times without a step more (out of memory?); last in run "
            f"folder {folder}",
        )
        raise TrialFault


def fail_stale_trials(study: optuna.Study) -> None:
    """Fail, and enqueue again, trials whose heart stopped; a journal has no heartbeat."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def close_study(study: optuna.Study) -> None:
    """Give a database its connections back."""
    study._storage.remove_session()
    backend = getattr(study._storage, "_backend", study._storage)
    if isinstance(backend, RDBStorage):
        backend.engine.dispose()
