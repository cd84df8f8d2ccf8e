"""Whatever is typed, written or downloaded: one line of error and exit code 2, or it is accepted.

Through the real entry points: the command line up to where a run would begin, expressions of rules,
sweep files, rows, prompt files and configurations of models.
"""

import contextlib
import io
import json
import shutil
import tomllib
from pathlib import Path
from string import printable
from tempfile import mkdtemp

import pytest
from fire_share import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prompt_files import prepare
from small_pair import pair_folder
from small_sweep import TUNING, write

from bench.cli.app import main
from bench.core.config import Experiment, Runtime
from bench.core.errors import BenchError, ConfigError
from bench.pairs.models import load_model, load_tokenizer, read_agreement
from bench.pairs.pair import get_pair
from bench.run.plan import make_plan
from bench.selection.combinations import COMBINATIONS
from bench.selection.registry import get_selector
from bench.sweep.sweep_file import read_claims, read_sweep
from bench.tables.rows import read_rows

PLACE = Path(mkdtemp(prefix="inputs-"))
ODD_TEXT = [
    "", " ", "\x00", "\ud800", "\u2028", "é", "٣", "../x", "/", "~", "-1", "0", "nan", "inf",
    "1e999", "9" * 5000, "1" + "0" * 400, "true", "None", "{}", "[]", "a=b", "norm=rank", "a=",
    "=", ",", "'", '"', "[bold]", "[/bold]", "\x1b[31m", "%s", "{0}", "a" * 300, "\n",
    "*", "(", ")", "entropy +", "<script>", "tiny-qwen3", "entropy", "0.05", "linear(1, 0.1)",
    "file.py:f", "os:system",
]  # fmt: skip
TEXT = st.one_of(st.sampled_from(ODD_TEXT), st.text(max_size=12), st.text(printable, max_size=40))
NUMBER = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, -1, 2**63, 10**400, 1e308, 5e-324, True])
)
VALUE = st.recursive(
    st.one_of(st.none(), NUMBER, TEXT),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXT, inside, max_size=3),
    max_leaves=6,
)


def fire(few: int, many: int):
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much,
             HealthCheck.function_scoped_fixture]  # fmt: skip
    return settings(max_examples=examples(few, many), suppress_health_check=quiet)


def one_line(error: BenchError) -> None:
    assert str(error).strip() and error.exit_code == 2, repr(error)


FIELDS = sorted(Experiment.model_fields)
RUNTIME = sorted(set(Runtime.model_fields) - {"runs_dir", "rows"})


@fire(80, 500)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUE, min_size=1, max_size=3))
def test_settings(counted, values):
    try:
        experiment = Experiment.parse(values)
        make_plan(experiment, Runtime(runs_dir=PLACE))
    except ConfigError as error:
        one_line(error)
    counted("examples")


def parsed(arguments: list[str]) -> tuple[int, str]:
    """(exit code, standard error) of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    return code, err.getvalue()


@fire(80, 500)
@given(
    st.dictionaries(
        st.sampled_from([name.replace("_", "-") for name in FIELDS + RUNTIME]), TEXT, max_size=3
    ),
    st.lists(TEXT, max_size=1),
)
def test_flags(counted, flags, more):
    with pytest.MonkeyPatch.context() as patch:

        def run_experiment(experiment, runtime=None, on_curve=None):
            make_plan(experiment, runtime)
            raise ConfigError("here a run would begin")

        patch.setattr("bench.run.run_experiment.run_experiment", run_experiment)
        given = [part for name, value in flags.items() for part in (f"--{name}", value)]
        code, err = parsed(["run", *given, *more, "--runs-dir", str(PLACE / "runs")])
    lines = [line for line in err.splitlines() if line.startswith("bench: error: ")]
    assert (code, len(lines)) == (2, 1) or (code, err) == (0, ""), (given, more, err)
    assert "\x1b" not in err, err
    counted("examples")


NAMES = [*COMBINATIONS, "entropy", "teachability", "random", "nosuch", "x.py:y", "0.5", "2", "1e9"]
MARKS = [
    "(",
    ")",
    "(",
    ")",
    ",",
    ",",
    "=",
    "share=",
    "norm=",
    "'rank'",
    "-",
    "'",
    " ",
    ":",
    "[",
    "π",
]
TOKENS = [*NAMES, *MARKS]


@fire(80, 600)
@given(st.one_of(st.lists(st.sampled_from(TOKENS), max_size=14).map(" ".join), TEXT), VALUE)
def test_expressions(counted, text, parameter):
    try:
        get_selector(text)
        get_selector("zscore_mix", share=parameter)
    except ConfigError as error:
        one_line(error)
    counted("examples")


@pytest.mark.parametrize("count", [400, 32_000])
@pytest.mark.parametrize("form", ["a + ", "(", "entropy * ", "-", "entropy then ", "a(", "not "])
def test_endless_expressions_are_refused_soon(counted, form, count):
    import time

    began = time.monotonic()
    with pytest.raises(ConfigError) as raised:
        get_selector(form * count + "entropy" * (form[-1] == " "))
    assert time.monotonic() - began < 5 and len(str(raised.value)) < 2000
    counted("examples")


@fire(60, 400)
@given(
    st.lists(st.tuples(st.integers(0, 40), TEXT), min_size=1, max_size=3),
    st.sampled_from(["line", "value", "insert", "drop"]),
)
def test_sweep_files(counted, edits, how):
    path = write(PLACE, TUNING, sampler="tpe", pruner="none")
    lines = path.read_text().split("\n")
    for place, text in edits:
        place %= len(lines)
        name, equals, _ = lines[place].partition("=")
        if how == "line":
            lines[place] = text
        elif how == "value" and equals:
            lines[place] = f"{name}= {text}"
        elif how == "insert":
            lines.insert(place, f"{text} = 1")
        elif len(lines) > 1:
            del lines[place]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    for read in (lambda: read_sweep(path, Runtime(runs_dir=PLACE)), lambda: read_claims(path)):
        try:
            read()
        except ConfigError as error:
            one_line(error)
    counted("examples")


TABLES = ["[tuning]", "", "[claims]"]


@fire(60, 300)
@given(
    st.dictionaries(TEXT, VALUE, min_size=1, max_size=3),
    st.sampled_from(["[tuning]", "", "[claims]"]),
)
def test_sweep_values(counted, values, table):
    lines = ["name = 'x'", table]
    for name, value in values.items():
        lines.append(f"{json.dumps(name)} = {json.dumps(value, ensure_ascii=True)}")
    text = "\n".join(lines)
    with contextlib.suppress(ValueError, RecursionError):
        tomllib.loads(text)
    path = PLACE / "values.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        read_sweep(path, Runtime(runs_dir=PLACE))
    except ConfigError as error:
        one_line(error)
    counted("examples")


ROW = json.loads(Path("results/rows.jsonl").read_text().split("\n")[0])


@fire(60, 400)
@given(st.lists(st.sampled_from(sorted(ROW)), min_size=1, max_size=3), VALUE, TEXT)
def test_rows(counted, fields, value, name):
    row = {**ROW, **dict.fromkeys(fields, value), name: value}
    text = json.dumps(row) + "\n"
    try:
        read_rows({"rows.jsonl": text})
        read_rows({"rows.jsonl": text[: len(text) // 2]})
    except ConfigError as error:
        one_line(error)
    counted("examples")


@fire(60, 400)
@given(st.lists(st.dictionaries(
    st.sampled_from(["problem", "question", "prompt", "answer", "solution", "reward_model", "x"]),
    st.one_of(VALUE, st.sampled_from([[{"role": "user", "content": "2 + 2?"}],
                                      {"ground_truth": 5}])),
    max_size=4), min_size=1, max_size=3), st.binary(max_size=6))  # fmt: skip
def test_prompt_files(counted, rows, tail):
    path = PLACE / "prompts.jsonl"
    lines = [json.dumps(row, default=str) for row in rows]
    path.write_bytes("\n".join(lines).encode() + b"\n" + tail)
    try:
        prepare(str(path))
    except ConfigError as error:
        one_line(error)
    counted("examples")


CONFIG = json.loads((pair_folder() / "student" / "config.json").read_text())


@fire(40, 300)
@given(
    st.sampled_from(["config.json", "generation_config.json", "tokenizer_config.json"]),
    st.dictionaries(st.sampled_from([*sorted(CONFIG), "quantization_config", "auto_map"]), VALUE,
                    min_size=1, max_size=2),
)  # fmt: skip
def test_model_configurations(counted, name, changes):
    folder = PLACE / "pair"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pair_folder(), folder)
    file = folder / "student" / name
    said = {**json.loads(file.read_text()), **changes}
    if any(isinstance(said.get(key), int) and abs(said[key]) > 10_000 for key in CONFIG):
        return  # what is right and does not fit into memory is the memory check's
    file.write_text(json.dumps(said, default=str))
    for read in (
        lambda: load_model(str(folder / "student")),
        lambda: load_tokenizer(str(folder / "student")),
        lambda: read_agreement(get_pair(str(folder))),
    ):
        try:
            read()
        except ConfigError as error:
            one_line(error)
    counted("examples")
