"""The command line: parses and prints, decides nothing."""

import os
import sys
import traceback
from importlib.metadata import version

from cyclopts import CycloptsError, Parameter
from pydantic import ValidationError

from bench.cli.console import fail
from bench.cli.data import data_app
from bench.cli.diagnose import diagnose
from bench.cli.groups import GroupedApp, default_text
from bench.cli.leaderboard import compare, leaderboard
from bench.cli.pairs import pairs_app
from bench.cli.report import report
from bench.cli.run import doctor, evaluate, merge, run
from bench.cli.runs import runs_app
from bench.cli.selectors import selectors_app
from bench.cli.shadow import artefacts, overlap
from bench.cli.sweep import sweep
from bench.cli.watch import watch
from bench.core.errors import BenchError, is_out_of_memory
from bench.core.fields import one_line
from bench.core.progress import launched
from bench.core.stopping import StopRequest, end_at_once

app = GroupedApp(
    name="bench",
    help="""The benchmark for selective on-policy distillation.

    Example: `bench run --selector teachability --keep 0.05`

    With --traceback, an error also shows where it came from.
    """,
    default_parameter=Parameter(show_default=default_text),
    version=lambda: version("opd-bench"),
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)
for command in (pairs_app, data_app, selectors_app, runs_app):
    app.command(command)
for command in (
    run,
    merge,
    doctor,
    sweep,
    watch,
    diagnose,
    leaderboard,
    compare,
    report,
    overlap,
    artefacts,
):
    app.command(command)
app.command(evaluate, name="eval")


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 2 bad input, 3 stopped and resumable, 1 anything else."""
    if arguments is None and launched() > 1:
        end_at_once(_main)
    _main(arguments)


TRACEBACK = "--traceback"


def _main(arguments: list[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        # Also outside a run, while things load or are drawn, a signal ends with one line.
        with StopRequest(leaves=True).installed(for_good=arguments is None):
            app(
                [argument for argument in given if argument != TRACEBACK],
                exit_on_error=False,
                print_error=False,
            )
    except CycloptsError as error:
        cause = error.__cause__
        fail(one_line(cause) if isinstance(cause, ValidationError) else str(error), 2)
    except ValidationError as error:
        fail(one_line(error), 2)
    except BenchError as error:
        if TRACEBACK in given:
            traceback.print_exception(error)
        fail(str(error), error.exit_code, error.process)
    except KeyboardInterrupt:
        fail("stopped; the same command goes on from the last checkpoint", 3)
    except BrokenPipeError:
        # Whoever reads the output has gone; Python would say so once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        if is_out_of_memory(error):
            fail("out of memory; the same command goes on from the last checkpoint", 1)
        where = f": {str(error.filename)!r}" if error.filename else ""
        fail(f"{error.strerror or error}{where}; nothing that was written before is lost", 1)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        fail(
            "out of memory: lower --micro-batch, --rollout-batch or --eval-batch, or choose a "
            "smaller pair; the same command goes on from the last checkpoint",
            1,
        )
