"""Optuna studies: on a journal in a folder, or on any RDB that several machines share."""

import warnings
from pathlib import Path

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from bench.config import ConfigError

HEARTBEAT_S = 30
"""Seconds between heartbeats on an RDB; a trial silent for three of them is taken for dead."""


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
    study.enqueue_trial(trial.params, user_attrs=kept)


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
