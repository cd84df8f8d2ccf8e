"""Commands called in this process, and flags of a run of seconds."""

from small_pair import pair_folder
from steps import SMALL

from bench.cli.app import main


def call(capsys, *arguments):
    """(exit code, standard output, standard error) of one command, in this process."""
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return code, out, err


def flags_of(values):
    return [part for k, v in values.items() for part in (f"--{k.replace('_', '-')}", v)]


def run_flags(tmp_path, **values):
    values = {
        "pair": pair_folder(),
        "runs-dir": tmp_path / "runs",
        "device": "cpu",
        **SMALL,
        **values,
    }
    return flags_of(values)
