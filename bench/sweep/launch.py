"""A run of its own under a launcher (`accelerate launch …`), for trials that need many processes.

`run_launched` starts `LAUNCH -m bench.sweep.launch JOB`; the job names the experiment, and the run
folder says how it ended, since launchers do not pass exit codes on.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.config import Experiment, Runtime
from bench.core.errors import BenchError, ConfigError, RunInUse, Stopped
from bench.core.files import write_json, write_text
from bench.core.parent import GRACE_S, stop_with
from bench.core.processes import leave_group
from bench.core.records import RunFolder, RunRecord
from bench.core.stopping import StopRequest, end_at_once
from bench.run.plan import make_plan
from bench.run.run_experiment import OnCurve, run_experiment

POLL_S = 1.0
LAST_LINES = 5


def execute(
    launch: str | None,
    experiment: Experiment,
    runtime: Runtime,
    on_curve: OnCurve | None = None,
) -> RunRecord:
    """Run an experiment in this process, or under a launcher, where nobody hears of its curve."""
    if launch is None:
        return run_experiment(experiment, runtime, on_curve)
    return run_launched(launch, experiment, runtime)


def run_launched(launch: str, experiment: Experiment, runtime: Runtime) -> RunRecord:
    """Run an experiment to its record in processes that `launch` starts.

    Raises ConfigError for a command that is not there, Stopped after the run has saved, BenchError
    with what the run said where it failed.
    """
    plan = make_plan(experiment, runtime)
    with tempfile.TemporaryDirectory() as place:
        job, log = Path(place, "job.json"), Path(place, "log.txt")
        values = {
            "experiment": experiment.model_dump(mode="json"),
            "runtime": runtime.model_dump(mode="json"),
            "parent": os.getpid(),
        }
        write_json(job, values)
        with StopRequest().installed():
            process = _start(launch, job, log)
            try:
                process.wait()
            except BaseException:  # StopNow, raised by a signal's handler
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
                _wait_until_free(plan.folder)
                raise
        if plan.folder.state == "done":
            return plan.folder.read_record()
        said = job.with_suffix(".error")
        tail = log.read_text(errors="replace").strip().splitlines()[-LAST_LINES:]
        raise BenchError(
            said.read_text(encoding="utf-8") if said.exists() else " | ".join(tail) or "no output"
        )


def _start(launch: str, job: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [*shlex.split(launch), "-m", "bench.sweep.launch", str(job)]
    beside_python = str(Path(sys.executable).parent)  # where pip puts `accelerate`
    path = os.pathsep.join([beside_python, os.environ.get("PATH", "")])
    try:
        with log.open("wb") as file:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={
                    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(int(GRACE_S)),
                    **os.environ,
                    "PATH": path,
                },
                start_new_session=True,
            )
    except OSError as error:
        raise ConfigError(f"launch: {command[0]!r} cannot be started: {error.strerror}") from error


def _wait_until_free(folder: RunFolder) -> None:
    """The launcher ends before its children do: wait until the run has saved."""
    for _ in range(int(GRACE_S / POLL_S)):
        try:
            with folder.lock():
                return
        except RunInUse:
            time.sleep(POLL_S)


def main(job: Path) -> None:
    """What each launched process does. Leaves JOB's `.error` beside it where the run failed."""
    values: Mapping[str, Any] = json.loads(job.read_text(encoding="utf-8"))
    stop_with(values["parent"], is_parent=False)
    try:
        run_experiment(Experiment.parse(values["experiment"]), Runtime(**values["runtime"]))
        leave_group()
    except Stopped as stopped:
        sys.exit(stopped.exit_code)
    except BenchError as error:
        _tell(job, str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        _tell(job, f"{type(error).__name__}: {error}")
        raise


def _tell(job: Path, message: str) -> None:
    """Leave the message beside the job. The first process to fail knows the cause; the others only
    lose it."""
    told = job.with_suffix(".error")
    if not told.exists():
        write_text(told, message)


if __name__ == "__main__":
    end_at_once(lambda: main(Path(sys.argv[1])))
