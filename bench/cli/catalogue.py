"""The registry -> selectors/README.md: a guide, then every rule, weight and objective."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from bench.core.objectives import (
    OBJECTIVES,
    ON_SAMPLED_TOKEN,
    SELECT_THEMSELVES,
    objective_defaults,
)
from bench.selection.combinations import COMBINATIONS
from bench.selection.registry import get_selector, selector_names
from bench.selection.selector import COST_CLASSES, Selector
from bench.selection.signals import STUDENT_ONLY
from bench.tables.sheet import table
from bench.train.batch_objectives import context_needs
from bench.train.objectives import FORMULAS, needs_teacher

NOT_BUILT: dict[str, tuple[str, str]] = {
    "a top-K divergence as an advantage": (
        "several trainers",
        "it is the same for every token that could have been sampled, so its expected policy "
        "gradient is zero: `--objective topk_..._advantage` is refused.",
    ),
    "CAL": ("arXiv 2609.21619", "its feedback texts are in no source that we could read."),
    "META": ("arXiv 2610.11989", "the form of f and of the outer step is not stated."),
    "DR": ("arXiv 2609.38025", "the reward's gradient is not stated."),
    "hinge routing": ("arXiv 2609.08337", "potential and budget are not stated."),
    "CMT": ("ihbkaiser/jta-opd", "r_U and the population of its Gibbs weights are not stated."),
    "SA-OPD": ("arXiv 2608.03632", "its FLMR threshold is not stated."),
    "R²-OPD": ("arXiv 2608.19408", "its rule for spans is not stated."),
    "DASH": ("arXiv 2608.06243", "the exact gate is not stated."),
    "S2D-OPD's KL anchor": (
        "arXiv 2609.29142",
        "its weight is not stated; the selector is `reference_jsd`.",
    ),
}
"""What is published and not offered, with its source and the reason."""

GUIDE = """# Selectors

One file per family of rules. A rule *ranks* the tokens that the student sampled; the harness spends
the budget on the best of them. {count} rules: {scores} that choose tokens and {weights} that weight
them; {objectives} objectives to cross with. The catalogue below has formula, cost and source of
each, where we deviate, and what is published but cannot be built from its source; the page is
generated from the registry by `bench selectors catalogue`, and a test keeps it current.

    bench selectors                                             # every rule: what it keeps, source
    bench selectors show teachability                           # its docstring, parameters, example
    bench selectors --objectives                                # every objective
    bench run --selector teachability --keep 0.05
    bench run --selector entropy --keep "cosine(0.5, 0.05)"     # a budget that changes over steps

Some rules ask for more than two models' logits: the right answers (`scope`, `opdvr`), a third model
(`cc`, `reference_jsd`: `--reference`), a pass under other prompts (`crop`, `cs`, `credit`; a prompt
file names its rewordings with `--columns paraphrase=NAME,one_change=NAME`), or the steps before
(`adakd`, `rock`, `reopold`: their memory is saved with each checkpoint). The engine gives it only
when a rule asks. Weights, and rules that set their own budget (`dial`, `tip_p98`: a share of each
response, the parameter `share`), have no keep to match and are compared in tables of their own,
with `shuffled(X)` and `matched(X)` as their controls; under a schedule of `keep`, rules are
compared with `random` under the same one.

Whose signals a rule reads, and who samples, are settings: `--score-model initial` scores every mask
by the student before training, `--rollout-model initial` samples all responses from it.

The folder has no `__init__.py` on purpose: the standard library has a module named `selectors`. It
is installed as `token_selectors`.

## Join rules in expressions

Without code, nested freely, with parameters by name, wherever a selector is named (`--selector`,
sweeps, `get_selector`):

    bench selectors show "product(forward_kl, compatibility)"            # the same as teachability
    bench run --selector "soft_or(entropy, teachability)"
    bench run --selector "split(0.5, entropy, teachability)" --keep 0.1  # half the budget by each
    bench run --selector "mix(0.3, entropy, 0.7, reverse_kl)"            # weighted sum of z-scores
    bench run --selector "gate(low_entropy, tip(norm='rank'))"           # where the first is high
    bench run --selector "shuffled(teachability)"                        # the control

`reversed`, `bottom` and `matched` (as many random tokens) are controls as well. A wrong name or
bracket is pointed at. The run id of an expression covers the source of every rule in it. A token
that a rule inside would never keep is never kept.

{words}

## Add a selector

A selector is one function from `TokenSignals` to scores; higher is kept, `-inf` means never.

```python
# my_rule.py
from bench import selector


@selector("my_rule", needs=("student_entropy_BT", "forward_kl_BT"))
def my_rule(signals, power=1.0):
    \"\"\"Keep tokens where the student is sure and the teacher disagrees.

    Source: my paper.
    \"\"\"
    return signals.forward_kl_BT**power * (1 - signals.norm_q05(signals.student_entropy_BT))
```

    bench selectors check ./my_rule.py:my_rule      # what it breaks of a selector's contract, how
    bench run --selector ./my_rule.py:my_rule --selector-params power=0.5 --keep 0.05
    bench run --selector "soft_or(./my_rule.py:my_rule, entropy)" --keep 0.05

`needs` lists every signal that the rule reads (`bench/selection/signals.py` defines them all); a
run computes only those. Randomness comes from `signals.uniform_BT`, normalisation over the sampled
tokens of the batch from `signals.norm_q05`, `norm_minmax` and `percentile_rank`. A rule that may
leave budget unspent says `abstains=True`, with `keep=1.0` if the budget is all its own; one that
returns weights says `kind="weight"`; one whose scores read the sampled token says
`reads_sampled_token=True`; one with a memory gives its first `state=` and is
`rule(signals, state) -> (scores, state)`, the state of tensors and plain values alone.

Signals are read-only, and what a rule prints goes to standard error. A rule that was edited is
another: its runs are new ones, and `bench leaderboard` counts those of its newest version
(`--versions all` shows the older ones beside them).

## Ship rules in a package

Name their module under an entry point; they are then listed and found by name wherever the package
is installed:

```toml
[project.entry-points."opd_bench.selectors"]
my_rules = "my_package.my_rule"
```

## Add one to the benchmark

Drop a file into `selectors/` and open a pull request with

- the rule, its docstring saying what is kept, `Formula:`, `Source:` (arXiv id), and `Deviations:`
  for all that the source leaves open, each a named parameter;
- its formula in float64 NumPy in `tests/helpers/numpy_rules.py`, and its golden scores
  (`python tests/test_golden_scores.py`);
- this page made anew (`bench selectors catalogue --out selectors/README.md`), and its name
  in `sweeps/catalogue.toml`;
- `bench selectors check NAME`, `make lint` and `make test` passing.
"""

HEAD = """## The catalogue

p is the student's next-token distribution, q the teacher's, y the sampled token,
Δ = log q(y) - log p(y), H the entropy, S and T the top-K ids of p and q, U = S ∪ T, u a keyed
uniform number, σ the logistic function, t the position from 0. A hat is a normalisation over the
sampled tokens of the batch (`norm`):

| `norm` | |
|---|---|
| `q05` | clip((x - Q05)/(Q95 - Q05), 0, 1), linear quantiles |
| `minmax` | (x - min)/(max - min) |
| `rank` | percentile rank in [0, 1], ties averaged |
| `zscore` | (x - mean)/sd; where [0, 1] is needed, through the normal distribution function |

A range under 1e-5 gives 0.5 everywhere (0 for `zscore`). What a source leaves open is a named
parameter; `bench selectors show NAME` prints them. Every score is a rank: the harness spends the
budget. Rules marked *own budget* decide by themselves how much is kept, and leave `keep` alone; the
realised keep is recorded for all.

**Cost**, from cheap to dear: {costs}.
The dearest signal that a rule reads counts; answers to check cost no pass.
"""


def markdown() -> str:
    """The whole of selectors/README.md."""
    found = [get_selector(name) for name in selector_names()]
    weights = [s for s in found if s.kind == "weight"]
    scores = [s for s in found if s.kind == "score"]
    guide = GUIDE.format(
        count=len(found), scores=len(scores), weights=len(weights),
        objectives=len(OBJECTIVES), words=_words().rstrip(),
    )  # fmt: skip
    parts = [
        guide,
        HEAD.format(costs=", ".join(COST_CLASSES)),
        f"## Rules that choose tokens\n\n{_rules(scores)}",
        f"## Rules that weight every token\n\nThe loss is Σ w·loss / Σ w over the global batch. "
        "They have no keep to match, so\nthey are compared in tables of their own, with the "
        f"effective sample size (Σw)²/Σw².\n\n{_rules(weights)}",
        f"## Deviations\n\nWhere we read a source one way of several, or do otherwise than it "
        f"does.\n\n{_deviations(found)}",
        f"## Objectives\n\n`--objective NAME --objective-params name=value`. One for all kept "
        f"tokens of a run;\none that selects for itself runs with `--selector full`.\n\n"
        f"{_objectives()}",
        f"## Published and not built\n\n{_not_built()}",
    ]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _rules(found: Sequence[Selector]) -> str:
    return table(
        ("name", "kind", "formula", "parameters", "needs", "cost", "source"),
        (
            (f"`{s.name}`", _kind(s), s.formula, _parameters(s), _needs(s), s.cost, s.source)
            for s in sorted(found, key=lambda s: s.name)
        ),
    )


def _kind(selector: Selector) -> str:
    parts: list[str] = [selector.kind]
    if selector.sets_keep or (selector.keep is not None and selector.abstains):
        parts.append("own budget")
    elif selector.abstains:
        parts.append("may abstain")
    if selector.has_memory:
        parts.append("memory")
    if selector.reads_sampled_token:
        parts.append("reads y")
    return ", ".join(parts)


def _parameters(selector: Selector) -> str:
    return ", ".join(f"`{name}={value!r}`" for name, value in selector.parameters().items())


def _needs(selector: Selector) -> str:
    return ", ".join(f"`{need.rpartition('_')[0]}`" for need in selector.needs) or "nothing"


def _deviations(found: Iterable[Selector]) -> str:
    return "\n".join(f"- `{s.name}`: {s.deviations}" for s in found if s.deviations)


def _words() -> str:
    return table(
        ("word", "parameters", "value"),
        (
            (
                f"`{word.form}`",
                ", ".join(f"`{name}={value!r}`" for name, value in word.keywords.items()),
                word.formula,
            )
            for word in COMBINATIONS.values()
        ),
    )


def objective_page(name: str) -> dict[str, Any]:
    """What `bench selectors --objectives` says of an objective."""
    paragraphs = (FORMULAS[name].__doc__ or "").split("\n\n")
    told = [" ".join(part.split()) for part in paragraphs]
    needs = context_needs(name)
    found = re.search(r"Source: (.+?)\.?$", " ".join(told))
    return {
        "name": name,
        "parameters": objective_defaults(name),
        "needs": list(needs),
        "source": found.group(1) if found else "",
        "summary": told[0].partition(" Source:")[0],
        "teacher_free": not needs_teacher(name) and STUDENT_ONLY.issuperset(needs),
        "reads_sampled_token": name in ON_SAMPLED_TOKEN,
        "selects_for_itself": name in SELECT_THEMSELVES,
    }


def _objectives() -> str:
    rows = []
    for page in map(objective_page, OBJECTIVES):
        parameters = ", ".join(f"`{key}={value:g}`" for key, value in page["parameters"].items())
        marks = [
            *(["selects for itself"] if page["selects_for_itself"] else []),
            *(["reads y"] if page["reads_sampled_token"] else []),
            *(["no teacher"] if page["teacher_free"] else []),
        ]
        rows.append(
            (f"`{page['name']}`", ", ".join(marks), parameters, page["summary"], page["source"])
        )
    return table(("name", "kind", "parameters", "loss of a token", "source"), rows)


def _not_built() -> str:
    return table(
        ("what", "source", "why"),
        ((name, source, reason) for name, (source, reason) in NOT_BUILT.items()),
    )
