"""What every selector owes, whoever wrote it: one check of each promise, on a small random batch.

`bench selectors check` and the tests run the same checks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from bench.core.errors import BenchError
from bench.core.plain_state import load_plain, save_plain
from bench.selection.budget import select_tokens
from bench.selection.contract_batch import LENGTHS, VOCABULARY, Batch, make_batch
from bench.selection.registry import get_selector
from bench.selection.selector import Selector
from bench.selection.signals import BASE_SIGNALS, EXTRA_SIGNALS, SIGNAL_NAMES, TokenSignals

KEEPS = (0.05, 0.3, 0.5, 1.0)
Fresh = Callable[[], Selector]
"""Gives the selector with its parameters and an empty memory."""


class Broken(AssertionError):
    """A promise that a selector does not keep: the message says how."""


def _spend(selector: Selector, score_BT: Tensor, batch: Batch, **keywords) -> Tensor:
    try:
        return select_tokens(
            score_BT,
            batch.mask_BT,
            row_key_B=batch.row_key_B,
            abstains=selector.abstains,
            **keywords,
        )
    except ValueError as error:
        raise Broken(f"{error}; a rule that leaves budget unspent says abstains=True") from None


def _same(one_BT: Tensor, other_BT: Tensor, mask_BT: Tensor, what: str) -> None:
    """Raise where two scores differ under the mask by more than rounding."""
    one_N, other_N = one_BT[mask_BT], other_BT[mask_BT]
    if not torch.allclose(one_N, other_N, rtol=1e-6, atol=1e-6):
        place = int((~torch.isclose(one_N, other_N, rtol=1e-6, atol=1e-6)).nonzero()[0])
        raise Broken(f"{what}: {float(one_N[place]):g} became {float(other_N[place]):g}")


def _equal(one_BT: Tensor, other_BT: Tensor, mask_BT: Tensor, what: str) -> None:
    if not torch.equal(one_BT[mask_BT], other_BT[mask_BT]):
        raise Broken(what)


def scores_are_floats(fresh: Fresh) -> None:
    """It scores every sampled token with a float that is not NaN, without gradient."""
    selector, batch = fresh(), make_batch()
    score_BT = selector(batch.signals())
    if score_BT.requires_grad:
        raise Broken("the scores carry a gradient")
    if bool((score_BT[batch.mask_BT] == -torch.inf).any()) and not selector.abstains:
        raise Broken("some scores are -inf (never), but it does not say abstains=True")


def undeclared_signals_do_not_matter(fresh: Fresh) -> None:
    """Signals that it does not declare cannot change its scores."""
    selector, signals = fresh(), make_batch().signals()
    mask_BT = signals.mask_BT
    undeclared = [n for n in (*SIGNAL_NAMES, *EXTRA_SIGNALS) if n not in selector.needs]
    poisoned = replace(
        signals,
        **{
            name: torch.full_like(
                getattr(signals, name), -1 if "_id_" in name or name == "group_B" else torch.nan
            )
            for name in undeclared
        },
    )
    clean_BT = fresh().score_unchecked(signals)
    told = f"it reads a signal that it does not declare; needs has {list(selector.needs)}"
    _equal(fresh().score_unchecked(poisoned), clean_BT, mask_BT, told)
    told = "its scores change when the signals that it does not declare are absent"
    _equal(selector(signals.only(selector.needs)), clean_BT, mask_BT, told)


def declared_signals_are_read(fresh: Fresh) -> None:
    """It reads every signal that it declares: one not read costs a pass for nothing."""
    selector = fresh()
    if selector.parts:
        return  # an expression declares what its rules do, and each of them is checked
    read: set[str] = set()

    class Recorder(TokenSignals):
        def __getattribute__(self, attribute):
            read.add(attribute)
            return super().__getattribute__(attribute)

    signals = make_batch().signals()
    selector.score_unchecked(Recorder(**vars(signals)))
    unread = set(selector.needs) - read
    if unread:
        raise Broken(f"it declares {', '.join(sorted(unread))} and does not read it")


def padding_does_not_matter(fresh: Fresh) -> None:
    """Padding, rows of it or positions, cannot change its scores."""
    batch = make_batch()
    rows, positions = batch.mask_BT.shape
    score_BT = fresh()(batch.signals())
    wide_BT = fresh()(batch.padded(2, 5).signals())[:rows, :positions]
    _same(score_BT, wide_BT, batch.mask_BT, "more padding changed a score")


def garbage_off_the_mask_does_not_matter(fresh: Fresh) -> None:
    """What stands in the signals off the mask cannot change its scores."""
    signals = make_batch().signals()
    mask_BT = signals.mask_BT
    garbage = {}
    for name, value in vars(signals).items():
        if name in ("mask_BT", "position_BT") or name.endswith("_B"):
            continue
        filler = torch.nan if value.is_floating_point() else 3
        off = ~mask_BT.view(*mask_BT.shape, *[1] * (value.ndim - 2))
        garbage[name] = value.masked_fill(off, filler)
    dirty_BT = fresh()(replace(signals, **garbage))
    _equal(dirty_BT, fresh()(signals), mask_BT, "NaN off the mask changed a score")


def inputs_are_left_alone(fresh: Fresh) -> None:
    """It leaves its inputs as they were."""
    signals = make_batch().signals()
    before = {name: value.clone() for name, value in vars(signals).items()}
    fresh()(signals)
    for name, value in vars(signals).items():
        if not torch.equal(value.nan_to_num(), before[name].nan_to_num()):
            raise Broken(f"it changed {name} in place")


def it_is_deterministic(fresh: Fresh) -> None:
    """Equal signals give equal scores, and no global random number is drawn."""
    signals = make_batch().signals()
    before = torch.get_rng_state()
    try:
        torch.manual_seed(1)
        state = torch.get_rng_state()
        one_BT = fresh()(signals)
        drawn = not torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(2)
        two_BT = fresh()(signals)
    finally:
        torch.set_rng_state(before)
    _equal(one_BT, two_BT, signals.mask_BT, "two calls on the same signals gave different scores; "
           "randomness comes from signals.uniform_BT")  # fmt: skip
    if drawn:
        raise Broken("it draws from torch's global generator; use signals.uniform_BT")


def the_order_of_responses_does_not_matter(fresh: Fresh) -> None:
    """The order of the responses cannot change its scores, nor what is kept."""
    batch = make_batch()
    order = [4, 2, 7, 0, 5, 3, 6, 1]
    moved = batch.rows(order)
    selector = fresh()
    score_BT, moved_BT = selector(batch.signals()), fresh()(moved.signals())
    _same(score_BT[order], moved_BT, moved.mask_BT, "another order of the responses")
    if selector.kind == "score":
        for keep in (0.1, 0.5):
            one_BT = _spend(selector, score_BT, batch, keep=keep)
            if not torch.equal(_spend(selector, moved_BT, moved, keep=keep), one_BT[order]):
                raise Broken(f"at keep={keep}, other tokens are kept in another order of responses")


def it_spends_the_budget(fresh: Fresh) -> None:
    """It lets exactly the budget be spent, over the batch and in each response; all at keep 1."""
    selector, batch = fresh(), make_batch()
    if selector.kind == "weight":
        return
    score_BT = selector(batch.signals())
    length_B = batch.mask_BT.sum(1).tolist()
    for keep in KEEPS:
        for scope in ("batch", "response"):
            selected_BT = _spend(selector, score_BT, batch, keep=keep, scope=scope)
            if bool((selected_BT & ~batch.mask_BT).any()):
                raise Broken("a token off the mask is kept")
            wanted = (
                ceil(keep * sum(length_B))
                if scope == "batch"
                else sum(ceil(keep * length) for length in length_B)
            )
            kept = int(selected_BT.sum())
            if kept > wanted or (kept < wanted and not selector.abstains):
                raise Broken(f"keep={keep}, scope={scope}: {kept} tokens kept of {wanted}")


def a_tiny_batch_is_a_batch_too(fresh: Fresh) -> None:
    """One token alone, or none at all, is a batch too."""
    for masked in ([], [(3, 0)]):
        batch = make_batch()
        mask_BT = torch.zeros_like(batch.mask_BT)
        for at in masked:
            mask_BT[at] = True
        small, selector = replace(batch, mask_BT=mask_BT), fresh()
        score_BT = selector(small.signals())
        if selector.kind == "score" and not selector.abstains:
            _spend(selector, score_BT, small, keep=1.0)


def agreement_gives_scores(fresh: Fresh) -> None:
    """Models that agree exactly get scores that are not NaN."""
    batch = make_batch()
    fresh()(replace(batch, teacher_logits_BTV=batch.student_logits_BTV).signals())


def near_one_hot_models_give_finite_scores(fresh: Fresh) -> None:
    """Near one-hot models get scores that are not NaN, and not +inf."""
    batch = make_batch(seed=1, scale=300.0)
    score_N = fresh()(batch.signals())[batch.mask_BT]
    if bool((score_N == torch.inf).any()):
        raise Broken("a score is +inf where both models are almost certain")


def it_says_whether_it_reads_the_sampled_token(fresh: Fresh) -> None:
    """It says whether its scores read the sampled token, which biases a sampled objective."""
    batch = make_batch()
    score_BT = fresh()(batch.signals())
    reads = False
    for shift in range(1, 6):
        # By position and row, not one shift for all: rules that count types must see a change.
        places = torch.arange(batch.token_BT.shape[1]) + torch.arange(len(LENGTHS))[:, None] ** 2
        other = replace(batch, token_BT=(batch.token_BT + shift * (1 + places)) % VOCABULARY)
        reads |= not torch.equal(fresh()(other.signals())[batch.mask_BT], score_BT[batch.mask_BT])
    declared = fresh().reads_sampled_token
    if reads != declared:
        change = "change" if reads else "do not change"
        raise Broken(
            f"its scores {change} with the sampled tokens: say reads_sampled_token={reads}"
        )


def it_survives_a_checkpoint(fresh: Fresh) -> None:
    """Saved after two steps and loaded again, it goes on with the same scores."""
    batches = [make_batch(seed) for seed in (1, 2, 3)]
    whole, stopped, resumed = fresh(), fresh(), fresh()
    for batch in batches[:2]:
        whole(batch.signals())
        stopped(batch.signals())
    try:
        with TemporaryDirectory() as folder:
            save_plain(Path(folder) / "state", stopped.state_dict())
            resumed.load_state_dict(load_plain(Path(folder) / "state"))
    except Exception as error:
        raise Broken(f"its state holds more than plain values and tensors: {error}") from None
    expected_BT = whole(batches[2].signals())
    _equal(resumed(batches[2].signals()), expected_BT, batches[2].mask_BT,
           "after a checkpoint its scores are others")  # fmt: skip
    if whole.sets_keep and whole.step_keep != resumed.step_keep:
        raise Broken("after a checkpoint its budget is another")


def it_is_found_again_by_its_reference(fresh: Fresh) -> None:
    """Its name and parameters, as a run records them, give the same selector and the same hash."""
    selector = fresh()
    again = get_selector(selector.reference, **selector.params)
    if (again.params, again.needs) != (selector.params, selector.needs):
        raise Broken(f"{selector.reference!r} with {dict(selector.params)} is another selector")
    if again.code_sha256() != selector.code_sha256():
        raise Broken("its code hash changes from one loading to the next")


def its_docstring_says_what_it_keeps(fresh: Fresh) -> None:
    """Its docstring says what is kept ("Keep ..." or "Weight ...") and has a `Source:` line."""
    selector = fresh()
    if not selector.summary.startswith(("Keep ", "Weight ")):
        raise Broken(f"the docstring begins {selector.summary[:40]!r}, not with Keep or Weight")
    if not selector.summary.endswith("."):
        raise Broken("the docstring's first sentence has no full stop")
    if not selector.parts and not selector.source:
        raise Broken("the docstring has no line `Source: ...`: the paper, or that it is your own")
    if not set(selector.needs).isdisjoint(BASE_SIGNALS):
        raise Broken(f"needs names fields that every rule has: {', '.join(BASE_SIGNALS)}")


CHECKS: tuple[Callable[[Fresh], None], ...] = (
    scores_are_floats,
    undeclared_signals_do_not_matter,
    declared_signals_are_read,
    padding_does_not_matter,
    garbage_off_the_mask_does_not_matter,
    inputs_are_left_alone,
    it_is_deterministic,
    the_order_of_responses_does_not_matter,
    it_spends_the_budget,
    a_tiny_batch_is_a_batch_too,
    agreement_gives_scores,
    near_one_hot_models_give_finite_scores,
    it_says_whether_it_reads_the_sampled_token,
    it_survives_a_checkpoint,
    it_is_found_again_by_its_reference,
    its_docstring_says_what_it_keeps,
)


@dataclass(frozen=True)
class Finding:
    """One promise, and how it is broken ("" where it is kept)."""

    promise: str
    broken: str


def check(name: str, **params) -> Iterator[Finding]:
    """Each promise in turn. Raises ConfigError for a selector that cannot be loaded."""
    get_selector(name, **params)
    for promise in CHECKS:
        text = (promise.__doc__ or "").strip()
        try:
            promise(lambda: get_selector(name, **params))
        except (Broken, BenchError) as error:
            yield Finding(text, str(error))
        except Exception as error:  # a user's rule may raise anything
            yield Finding(text, f"{type(error).__name__}: {error}")
        else:
            yield Finding(text, "")
