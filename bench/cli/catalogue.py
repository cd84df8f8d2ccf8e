"""The registry -> selectors/README.md: a guide, then every rule, weight and objective."""

from collections.abc import Iterable, Sequence

from bench.core.config import OBJECTIVES, objective_defaults
from bench.selection.combinations import COMBINATIONS
from bench.selection.registry import get_selector, selector_names
from bench.selection.selector import COST_CLASSES, Selector
from bench.tables.sheet import table
from bench.train.objectives import FORMULAS

NOT_BUILT: dict[str, tuple[str, str]] = {
    "CROP": (
        "arXiv 2608.13387",
        "a second student pass under a paraphrased or counterfactual prompt; neither the score nor "
        "the prompts are stated in what we read. The pass is there (`counterfactual_logprob_BT`), "
        "and `prompt_reliance` is this project's own rule on it.",
    ),
    "AdaKD's temperatures": (
        "arXiv 2510.11615",
        "token-wise temperatures change the loss, not which tokens have one; the formula is not in "
        "what we read.",
    ),
    "TIDE's reward": (
        "arXiv 2608.09836",
        "2(e^{Δ/2} - 1) is given as a reward; how it enters the gradient is not stated in what we "
        "read.",
    ),
    "AOPD's second objective": (
        "arXiv 2605.06387",
        "the sign of q(y) - p(y) chooses between two objectives there; which the second is, is not "
        "stated in what we read. `sign_gate` is the gate.",
    ),
    "SCOPE's likelihood path": (
        "arXiv 2604.10688",
        "right responses are trained by likelihood there; a run has one objective. `scope` gives "
        "the weights.",
    ),
    "a top-K divergence as an advantage": (
        "several trainers",
        "it is the same for every token that could have been sampled, so its expected policy "
        "gradient is zero: `--objective topk_..._advantage` is refused.",
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
    bench run --selector teachability --keep 0.05
    bench run --selector entropy --keep "cosine(0.5, 0.05)"     # a budget that changes over steps

Some rules ask for more than two models' logits: the right answers (`scope`, `correct`), a third
model (`cc`, `--reference`), a second pass under other numbers (`prompt_reliance`), or the steps
before (`adakd`, `rock`, `reopold`: their memory is saved with each checkpoint). The engine gives it
only when a rule asks. Weights, and rules that set their own budget, have no keep to match and are
compared in tables of their own; under a schedule of `keep`, rules are compared with `random` under
the same one.

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

`reversed` and `bottom` are controls as well. A wrong name or bracket is pointed at. The run id of
an expression covers the source of every rule in it. A token that a rule inside would never keep is
never kept.

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
        f"tokens of a run.\n\n{_objectives()}",
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


def _objectives() -> str:
    rows = []
    for name, formula in FORMULAS.items():
        doc = " ".join((formula.__doc__ or "").split("\n\n")[0].split())
        defaults = objective_defaults(name).items()
        parameters = ", ".join(f"`{key}={value:g}`" for key, value in defaults)
        rows.append((f"`{name}`", parameters, doc.partition(" Source:")[0]))
    return table(("name", "parameters", "loss of a token"), rows)


def _not_built() -> str:
    return table(
        ("what", "source", "why"),
        ((name, source, reason) for name, (source, reason) in NOT_BUILT.items()),
    )
