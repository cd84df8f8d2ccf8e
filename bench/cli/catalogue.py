"""The registry -> selectors/README.md: every rule, weight, objective and word of an expression."""

from collections.abc import Iterable, Sequence

from bench.selection.combinations import COMBINATIONS
from bench.selection.registry import get_selector, selector_names
from bench.selection.selector import COST_CLASSES, Selector
from bench.tables.sheet import table
from bench.train import objectives

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

HEAD = """# The catalogue

Generated from the registry by `bench selectors catalogue`; a test keeps it current. {count} rules:
{scores} that choose tokens and {weights} that weight them; {objectives} objectives to cross with.

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
    head = HEAD.format(
        count=len(found), scores=len(scores), weights=len(weights),
        objectives=len(objectives.DEFAULTS), costs=", ".join(COST_CLASSES),
    )  # fmt: skip
    parts = [
        head,
        f"## Rules that choose tokens\n\n{_rules(scores)}",
        f"## Rules that weight every token\n\nThe loss is Σ w·loss / Σ w over the global batch. "
        "They have no keep to match, so\nthey are compared in tables of their own, with the "
        f"effective sample size (Σw)²/Σw².\n\n{_rules(weights)}",
        f"## Deviations\n\nWhere we read a source one way of several, or do otherwise than it "
        f"does.\n\n{_deviations(found)}",
        f'## Expressions\n\nRules are joined without code: `--selector "soft_or(entropy, '
        "teachability)\"`, nested freely, with\nparameters by name (`tip(norm='rank')`). A token "
        f"that a rule inside would never keep is never kept.\n\n{_words()}",
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
    for name, defaults in objectives.DEFAULTS.items():
        doc = " ".join((getattr(objectives, name).__doc__ or "").split("\n\n")[0].split())
        parameters = ", ".join(f"`{key}={value:g}`" for key, value in defaults.items())
        rows.append((f"`{name}`", parameters, doc.partition(" Source:")[0]))
    return table(("name", "parameters", "loss of a token"), rows)


def _not_built() -> str:
    return table(
        ("what", "source", "why"),
        ((name, source, reason) for name, (source, reason) in NOT_BUILT.items()),
    )
