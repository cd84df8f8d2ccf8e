"""Optuna studies: on a journal in a folder, or on any RDB that several machines share."""

import itertools
import re
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage

from bench.core.errors import BenchError, ConfigError
from bench.sweep.journal import Journal, JournalDamaged

HEARTBEAT_S = 30
"""Seconds between heartbeats on an RDB; a trial silent for three of them is taken for dead."""
PATIENCE_S = 120.0
"""Seconds for which a database that does not answer is asked again."""
DEATHS = 3
"""Deaths of a point's process in a row, without a step more, after which the point has failed."""


class TrialFault(Exception):
    """A trial that failed by its own fault: recorded, and the sweep goes on."""


Direction = Literal["maximize", "minimize"]


def open_study(
    name: str,
    storage: str | None,
    folder: Path,
    sampler: optuna.samplers.BaseSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
    directions: Sequence[Direction] = ("maximize",),
) -> optuna.Study:
    """A study, made if it is not there. A damaged journal is set aside, and said:
    its points are asked for anew, and those with a row are done at once.

    Raises ConfigError for a bad storage.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def create() -> optuna.Study:
        return optuna.create_study(
            study_name=name,
            storage=_open_storage(storage, folder),
            directions=list(directions),
            sampler=sampler,
            pruner=pruner,
            load_if_exists=True,
        )

    try:
        return create()
    except JournalDamaged as error:
        journal = _journal_file(storage, folder)
        if journal is None:
            raise
        aside = _free_name(journal)
        journal.replace(aside)
        print(
            f"{error}: it is set aside as {aside}, and the trials are found again from their runs",
            file=sys.stderr,
        )
        return create()


def find_study(name: str, storage: str | None, folder: Path) -> optuna.Study | None:
    """A study that is there already; makes none."""
    journal = _journal_file(storage, folder)
    if journal is not None and not journal.exists():
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.load_study(study_name=name, storage=_open_storage(storage, folder))
    except KeyError:
        return None


def _journal_file(storage: str | None, folder: Path) -> Path | None:
    """The journal in the folder when nothing is given, or the given file; None for a database."""
    if storage is None:
        return folder / "journal.log"
    return None if "://" in storage else Path(storage)


def _free_name(journal: Path) -> Path:
    names = (journal.with_name(f".damaged-{n}-{journal.name}") for n in itertools.count(1))
    return next(name for name in names if not name.exists())


def _open_storage(url: str | None, folder: Path) -> optuna.storages.BaseStorage:
    """A journal in the folder when no URL is given; a journal file; or an RDB."""
    journal = _journal_file(url, folder)
    try:
        if journal is not None:
            if url is None:
                folder.mkdir(parents=True, exist_ok=True)
            return JournalStorage(Journal(journal))
        assert url is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats
            return PatientStorage(
                url,
                engine_kwargs={"pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT_S,
                grace_period=3 * HEARTBEAT_S,
                heartbeat_stale_trial_callback=_enqueue_again,
            )
    except BenchError:
        raise
    except Exception as error:
        shown = without_password(url or str(journal))
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"storage: {shown!r} cannot be opened: {without_password(said, url)}"
        ) from error


def without_password(text: str, url: str | None = None) -> str:
    """A text with the password of a URL (itself, or another) left out."""
    found = re.match(r"[^:/]+://[^:/@]*:(.*)@", url or text)
    return text.replace(f":{found[1]}@", ":***@") if found and found[1] else text


class PatientStorage(RDBStorage):
    """A database that may be away for a while: what it is asked is asked again, less and less
    often, for PATIENCE_S. Then raises BenchError in one line.
    """


def _asked_again(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: RDBStorage, *arguments: Any, **named: Any) -> Any:
        from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
        from sqlalchemy.exc import DBAPIError

        began, wait, tries = time.monotonic(), 0.5, 0
        while True:
            try:
                return method(self, *arguments, **named)
            except UpdateFinishedTrialError:
                if not tries:
                    raise
                return True  # the answer to the first try was lost, and not what it did
            except (DBAPIError, StorageInternalError) as error:
                if time.monotonic() - began + wait > PATIENCE_S:
                    cause = error.__cause__ or error
                    said = (str(cause).splitlines() or [type(cause).__name__])[0]
                    raise BenchError(
                        f"storage: {without_password(self.url)!r} has not answered for "
                        f"{PATIENCE_S:.0f} seconds ({without_password(said, self.url)}); the same "
                        "command goes on from there"
                    ) from error
            time.sleep(wait)
            wait, tries = min(2 * wait, 15.0), tries + 1

    return call


for _name in (*vars(BaseStorage), "_get_trials", "_get_stale_trial_ids", "record_heartbeat"):
    if callable(_method := vars(RDBStorage).get(_name)) and not _name.startswith("__"):
        setattr(PatientStorage, _name, _asked_again(_method))


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
