"""Mutants of the core: code with one small fault each, and the tests that must fail on it.

    python tests/fire/mutants.py --count 200 --workers 2

Every place of the files where an operator, a number, a condition, a keyword or a call could be
another is a mutant; `--count` of them are drawn by `--seed`, in proportion to the places of each
file. A mutant lives where all tests pass; then either a test is added, or `equivalent.toml` says
why no test can tell it from the code. Prints one line a mutant; exits 1 for survivors not in it.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).parent / "equivalent.toml"
SELECTION = (
    "tests/selection",
    "tests/selectors",
    "tests/test_golden_scores.py",
    "tests/train/test_loop_rules.py",
)
LOSS = ("tests/train", "tests/run/test_memory.py", "tests/shadow")
STATS = (
    "tests/core/test_stats.py",
    "tests/core/test_stats_crossed.py",
    "tests/core/test_moderated.py",
    "tests/tables",
)
TARGETS: dict[str, tuple[str, ...]] = {
    "bench/selection/budget.py": (*SELECTION, "tests/shadow"),
    "bench/selection/combinations.py": SELECTION,
    "bench/selection/expression.py": SELECTION,
    "bench/selection/formulas.py": SELECTION,
    "bench/selection/grammar.py": SELECTION,
    "bench/selection/guard.py": SELECTION,
    "bench/selection/population.py": SELECTION,
    "bench/selection/registry.py": SELECTION,
    "bench/selection/selector.py": SELECTION,
    "bench/selection/signals.py": SELECTION,
    "bench/train/loss.py": LOSS,
    "bench/train/objectives.py": LOSS,
    "bench/train/scoring.py": LOSS,
    "bench/core/stats.py": STATS,
    "bench/core/moderated.py": STATS,
    "bench/core/randomness.py": ("tests/core/test_randomness.py", *SELECTION),
}  # fmt: skip
"""file -> the tests that must notice; those of its own name come first."""
LIMIT_S = 900
"""A mutant whose tests take longer hangs, and is noticed."""

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd, ast.MatMult: ast.Mult,
}  # fmt: skip
METHODS = {
    "min": "max", "max": "min", "sum": "mean", "mean": "sum", "amin": "amax", "amax": "amin",
    "floor": "ceil", "ceil": "floor", "any": "all", "all": "any", "argmax": "argmin",
    "log": "exp", "exp": "log", "isf": "sf", "sf": "cdf", "clamp_min": "clamp_max",
    "cumsum": "cumprod", "var": "std", "std": "var",
}  # fmt: skip

Change = tuple[str, Callable[[], None]]
"""What it is called, and what makes it."""


def changes_of(node: ast.AST) -> Iterator[Change]:
    """Every small fault that this node could have."""

    def put(where: ast.AST, name: str, value: object) -> Callable[[], None]:
        return lambda: setattr(where, name, value)

    if isinstance(node, ast.Compare):
        for number, operator in enumerate(node.ops):
            other = COMPARISONS[type(operator)]
            changed = [*node.ops[:number], other(), *node.ops[number + 1 :]]
            yield f"{_name(operator)} -> {other.__name__}", put(node, "ops", changed)
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS:
        other = OPERATORS[type(node.op)]
        yield f"{_name(node.op)} -> {other.__name__}", put(node, "op", other())
    if isinstance(node, ast.BoolOp):
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield f"{_name(node.op)} -> {other.__name__}", put(node, "op", other())
    if isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield (
            f"{_name(node.op)} dropped",
            put(node, "op", ast.UAdd())
            if isinstance(node.op, ast.USub)
            else _become(node, ast.Call(ast.Name("bool", ast.Load()), [node.operand], []))
            if isinstance(node.op, ast.Not)
            else _become(node, node.operand),
        )
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield f"{node.value} -> {not node.value}", put(node, "value", not node.value)
        elif isinstance(node.value, int):
            yield f"{node.value} -> {node.value + 1}", put(node, "value", node.value + 1)
        elif isinstance(node.value, float):
            other = node.value * 2 if node.value else 1.0
            yield f"{node.value} -> {other}", put(node, "value", other)
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        test = ast.UnaryOp(ast.Not(), node.test)
        yield "condition negated", put(node, "test", test)
    if isinstance(node, ast.Attribute) and node.attr in METHODS:
        yield f"{node.attr} -> {METHODS[node.attr]}", put(node, "attr", METHODS[node.attr])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in METHODS:
        yield (
            f"{node.func.id} -> {METHODS[node.func.id]}",
            put(node.func, "id", METHODS[node.func.id]),
        )
    if isinstance(node, ast.Call):
        for number, keyword in enumerate(node.keywords):
            left = [*node.keywords[:number], *node.keywords[number + 1 :]]
            yield f"keyword {keyword.arg} dropped", put(node, "keywords", left)
    for part in ("body", "orelse", "finalbody"):
        lines = getattr(node, part, None)
        for number, line in enumerate(lines if isinstance(lines, list) else []):
            if isinstance(line, ast.Raise | ast.AugAssign | ast.Delete) or (
                isinstance(line, ast.Expr) and isinstance(line.value, ast.Call)
            ):
                left = [*lines[:number], ast.Pass(), *lines[number + 1 :]]
                yield f"line dropped: {ast.unparse(line)[:50]!r}", put(node, part, left)


def _name(node: ast.AST) -> str:
    return type(node).__name__


def _become(node: ast.AST, other: ast.AST) -> Callable[[], None]:
    def change() -> None:
        node.__class__ = other.__class__
        node.__dict__.clear()
        node.__dict__.update(other.__dict__)

    return change


def places(tree: ast.Module) -> Iterator[tuple[int, Change]]:
    """(line, change) of all that could be otherwise, declarations of types and prose aside."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        hints = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            hints.append(node)
        if isinstance(node, ast.JoinedStr):
            hints.append(node)  # what a message says
        for hint in filter(None, hints):
            skipped.update(ast.walk(hint))
    for node in ast.walk(tree):
        if node not in skipped:
            for change in changes_of(node):
                yield getattr(node, "lineno", 1), change


@dataclass(frozen=True)
class Mutant:
    file: str
    number: int
    line: int
    code: str
    change: str

    @property
    def key(self) -> str:
        return f"{self.file}: {self.code}: {self.change}"

    def source(self) -> str:
        tree = ast.parse((ROOT / self.file).read_text(encoding="utf-8"))
        list(places(tree))[self.number][1][1]()
        return ast.unparse(ast.fix_missing_locations(tree))


def mutants_of(file: str) -> list[Mutant]:
    text = (ROOT / file).read_text(encoding="utf-8")
    lines = text.splitlines()
    return [
        Mutant(file, number, line, lines[line - 1].strip(), change)
        for number, (line, (change, _)) in enumerate(places(ast.parse(text)))
    ]


def drawn(count: int, seed: int) -> list[Mutant]:
    every = [mutant for file in TARGETS for mutant in mutants_of(file)]
    return random.Random(seed).sample(every, min(count, len(every)))


def tests_of(file: str) -> list[str]:
    """Its own test file first: it notices soonest."""
    room, stem = Path(file).parts[1], Path(file).stem
    own = sorted(
        str(found.relative_to(ROOT)) for found in (ROOT / "tests" / room).glob(f"test_{stem}*.py")
    )
    return [*own, *TARGETS[file]]


def is_noticed(mutant: Mutant, tree: Path) -> bool:
    """Do the tests fail on it?"""
    file = tree / mutant.file
    before = file.read_bytes()
    file.write_text(mutant.source(), encoding="utf-8")
    alone = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {**os.environ, **alone, "PYTHONPATH": str(tree)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-p",
        "no:cacheprovider",
        *tests_of(mutant.file),
    ]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, timeout=LIMIT_S
        )
        return done.returncode != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        file.write_bytes(before)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="files whose name holds this")
    parser.add_argument("--json", type=Path, help="where the counts go")
    asked = parser.parse_args()
    known = tomllib.loads(EQUIVALENT.read_text()) if EQUIVALENT.exists() else {}
    reasons = {item["key"]: item["why"] for item in known.get("mutant", [])}
    wanted = [mutant for mutant in drawn(asked.count, asked.seed) if asked.only in mutant.file]
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        trees: Queue[Path] = Queue()
        for number in range(asked.workers):
            tree = Path(place) / str(number)
            shutil.copytree(
                ROOT, tree, ignore=shutil.ignore_patterns(".venv", ".git", "runs", "__pycache__")
            )
            trees.put(tree)

        def judge(mutant: Mutant) -> tuple[Mutant, str]:
            if mutant.key in reasons:
                return mutant, "equivalent"
            tree = trees.get()
            try:
                return mutant, "killed" if is_noticed(mutant, tree) else "SURVIVED"
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(asked.workers) as pool:
            for number, (mutant, fate) in enumerate(pool.map(judge, wanted), 1):
                counts[fate] += 1
                print(
                    f"{number}/{len(wanted)} {fate:10} {mutant.file}:{mutant.line} "
                    f"{mutant.change} | {mutant.code}",
                    flush=True,
                )
    print(json.dumps(counts))
    if asked.json:
        asked.json.write_text(
            json.dumps({"drawn": len(wanted), "seed": asked.seed, **counts}, indent=1) + "\n"
        )
    return 1 if counts["SURVIVED"] else 0


if __name__ == "__main__":
    sys.exit(main())
