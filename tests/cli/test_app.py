"""What concerns all commands: how bad input ends, and what `--help` says."""

import shlex
import subprocess
import sys
import time
from importlib.metadata import version

import pytest
from command import call, run_flags

import bench
from bench.cli.app import app


def commands(found=app, names=()):
    """The words of every command -> its App: (), ("run",), ("selectors", "show"), ..."""
    inner = [name for name in found if not name.startswith("-")]
    below = [commands(found[name], (*names, name)) for name in inner]
    return {names: found} | {words: one for apps in below for words, one in apps.items()}


COMMANDS = commands()


def test_a_mistake_in_an_expression_is_pointed_at(capsys):
    code, out, err = call(capsys, "run", "--selector", "product(forward_kl, comptibility)")
    assert (code, out) == (2, "")
    first, shown, caret = err.rstrip("\n").split("\n")
    assert first.startswith("bench: error: selector: unknown rule 'comptibility'; did you mean")
    assert shown == "  product(forward_kl, comptibility)"
    assert caret.index("^") == shown.index("comptibility")


def test_an_objective_that_has_no_gradient_is_refused(capsys):
    code, _, err = call(capsys, "run", "--objective", "topk_reverse_kl_advantage")
    assert code == 2 and "zero expected gradient" in err and err.count("\n") == 1


RELEASED = ["--selector", "teachability_released"]


BAD = [
    (["--keep", "1.5"], "keep: '1.5'", "less than or equal to 1"),
    (["--keep", "0"], "keep: '0'", "greater than 0"),
    (["--keep", "abc"], "keep: 'abc'", "valid number"),
    (["--selector", "tipp"], "selector: unknown name 'tipp'", "did you mean 'tip'"),
    (["--selector", "nowhere.py:rule"], "'nowhere.py'", "does not exist"),
    (["--selector", "no_such_module:rule"], "'no_such_module'", "does not load"),
    (["--pair", "tiny-qwen4"], "pair: unknown name 'tiny-qwen4'", "did you mean 'tiny-qwen3'"),
    (["--prompts", "arithmetics"], "prompts: unknown name", "did you mean 'arithmetic'"),
    (["--objective", "revers_kl"], "objective: 'revers_kl'", "did you mean 'reverse_kl'"),
    (["--objective-params", "beta=0.5"], "objective_params: 'beta'", "it takes none"),
    (["--objective", "jsd", "--objective-params", "beta=2"], "beta=2", "(0, 1)"),
    (["--eval-tasks", "tiny_mth"], "task: unknown name 'tiny_mth'", "did you mean 'tiny_math'"),
    (["--eval-tasks", "tiny_math_tune", "--eval-every", "2"], "curve_tasks", "leakage"),
    (["--selecto", "tip"], "--selecto", "--selector"),
    (["--selector", "jsd", "--selector-params", "alpha=1"], "selector_params: 'alpha'", "it takes"),
    ([*RELEASED, "--selector-params", "floor=x"], "floor: 'x'", "float"),
    (["--selector", "full", "--keep", "0.05"], "keep: 0.05", "always trains on keep=1"),
    (["--preset", "papr"], "preset: unknown name 'papr'", "did you mean 'paper'"),
    (["--steps", "2", "--warmup-steps", "2"], "warmup_steps: 2", "smaller than steps"),
    (["--log-signals", "entropy_BT"], "log_signals: unknown name", "did you mean"),
    (["--shadow", "entropie"], "shadow: selector: unknown name", "did you mean 'entropy'"),
    (["--shadow-every", "4"], "shadow_every: 4", "without shadow"),
    (["--shadow-keep", "0.2"], "shadow_keep: 0.2", "without shadow or token_bank"),
    (["--shadow-every", "0"], "shadow_every: '0'", "greater than or equal to 1"),
]  # fmt: skip


@pytest.mark.parametrize("flags, names, accepted", BAD)
def test_bad_input_is_one_line_with_exit_code_2_and_nothing_written(
    capsys, tmp_path, monkeypatch, flags, names, accepted
):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, "run", *flags, "--json")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert names in err and accepted in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(capsys, tmp_path):
    (tmp_path / "runs").write_text("a file in the way")
    code, out, err = call(capsys, "run", *run_flags(tmp_path))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and "runs_dir" in err and "cannot be written" in err
    assert (tmp_path / "runs").read_text() == "a file in the way"


@pytest.mark.parametrize(
    "arguments", [["rn"], ["eval"], ["eval", "nowhere"], ["selectors", "show", "x"]]
)
def test_other_commands_fail_in_one_line_too(capsys, arguments):
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_help_needs_no_torch_and_little_time():
    script = (
        "import sys, bench, bench.cli.app\n"
        "try: bench.cli.app.main(['--help'])\n"
        "finally: assert not {'torch', 'transformers', 'lm_eval', 'numpy'} & set(sys.modules)"
    )
    start = time.process_time()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Commands" in done.stdout
    assert time.process_time() - start < 1


@pytest.mark.parametrize("names", list(COMMANDS), ids=" ".join)
def test_help_opens_with_a_summary_and_an_example_that_parses(names, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = call(capsys, *names, "--help")
    usage, summary, example = (part.strip() for part in out.split("\n\n")[:3])
    assert (code, err) == (0, "")
    assert usage.startswith(" ".join(("Usage: bench", *names)))
    assert summary.endswith(".") and "Example" not in summary
    assert example.startswith(" ".join(("Example: bench", *names)))
    assert out.count("Example:") == 1
    words = shlex.split(example)[2:]
    command, _, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert not names or command is COMMANDS[names].default_command


@pytest.mark.parametrize("names", list(COMMANDS)[1:], ids=" ".join)
def test_help_breaks_no_name_at_80_columns(names, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = call(capsys, *names, "--help")[1].split()
    for argument in COMMANDS[names].assemble_argument_collection():
        if argument.show:
            assert set(argument.names) <= set(words)


def test_the_version_is_the_packages(capsys):
    code, out, _ = call(capsys, "--version")
    assert (code, out.strip()) == (0, version("opd-bench"))
    assert bench.__version__ == version("opd-bench") != "0.0.0"


def test_a_traceback_is_shown_where_it_is_asked_for(tmp_path, capsys):
    file = tmp_path / "own.py"
    file.write_text(
        "from bench import selector\n\n\n@selector('own', needs=['student_entropy_BT'])\n"
        "def own(signals):\n    '''Fails.'''\n    raise KeyError('gone')\n"
    )
    flags = ("run", "--selector", f"{file}:own", "--runs-dir", tmp_path / "runs")
    code, _, err = call(capsys, *flags)
    assert code != 0 and "Traceback" not in err
    assert "failed at own.py:7: KeyError: 'gone'" in err
    code, _, err = call(capsys, *flags, "--traceback")
    assert code != 0 and "Traceback" in err and 'own.py", line 7' in err
