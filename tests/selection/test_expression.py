"""Selector expressions: read safely, equal to the rules they spell, with what those declare."""

import numpy as np
import pytest
import torch

from bench import get_selector, select_tokens
from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError
from bench.run.plan import make_plan, slug
from bench.selection.contract_batch import make_batch


@pytest.fixture
def signals():
    return make_batch().signals()


def under(signals, name, **params):
    return get_selector(name, **params)(signals)[signals.mask_BT]


EQUAL = {
    "product(forward_kl, compatibility)": "teachability",
    "product(forward_kl, compatibility, norm='rank')": "teachability_rank",
    "product(forward_kl, compatibility, norm='none')": "teachability_raw",
    "product(normalised(forward_kl), complement(compatibility), norm='none')": "incompatible",
    "soft_or(entropy, reverse_kl, norm='minmax')": "tip",
    "soft_or(entropy, forward_kl)": "tip_q05",
    "soft_or(entropy, teachability_raw)": "teachability_entropy",
    "soft_or(entropy, product(forward_kl, compatibility, norm='none'))": "teachability_entropy",
    "soft_or(normalised(entropy), teachability, norm='none')": "teachability_entropy_docs",
    "product(complement(entropy, norm='minmax'), reverse_kl, norm='minmax')": "tip_q3",
    "mix(1, entropy, 1, low_student_logprob, 1, forward_kl)": "zscore_mix",
    "bottom(entropy)": "low_entropy",
    "bottom(forward_kl)": "low_forward_kl",
    "normalised(entropy)": "entropy_q05",
    "normalised(forward_kl)": "divergence_q05",
    "tip(norm='minmax')": "tip",
    "teachability()": "teachability",
    "split(0.5, normalised(entropy), product(complement(entropy), teachability_raw))": None,
}


@pytest.mark.parametrize(("expression", "name"), [(e, n) for e, n in EQUAL.items() if n])
def test_an_expression_equals_the_rule_it_spells(expression, name):
    for seed, scale in ((1, 1.0), (2, 4.0)):
        signals = make_batch(seed, scale).signals()
        torch.testing.assert_close(under(signals, expression), under(signals, name),
                                   rtol=1e-6, atol=2e-7)  # fmt: skip


def test_the_shared_product_is_the_named_rule_to_the_last_bit(signals):
    one = under(signals, "product(forward_kl, compatibility)")
    assert torch.equal(one, under(signals, "teachability"))
    one = under(signals, "soft_or(entropy, reverse_kl, norm='minmax')")
    assert torch.equal(one, under(signals, "tip"))


def test_parameters_beside_the_expression_belong_to_its_outermost_word(signals):
    beside = under(signals, "product(forward_kl, compatibility)", norm="rank")
    assert torch.equal(beside, under(signals, "product(forward_kl, compatibility, norm='rank')"))
    assert torch.equal(under(signals, "tip()", norm="rank"), under(signals, "tip", norm="rank"))
    with pytest.raises(ConfigError, match="norm is also given in the selector itself"):
        get_selector("tip(norm='rank')", norm="q05")
    with pytest.raises(ConfigError, match="'nrm' is not a parameter of product; it takes norm"):
        get_selector("product(entropy, tip)", nrm="q05")


# What the words compute


def test_split_gives_each_rule_its_share_of_every_budget(signals):
    mask_BT = signals.mask_BT
    total = int(mask_BT.sum())
    for share in (0.25, 0.5, 0.8):
        score_BT = get_selector(f"split({share}, entropy, first)")(signals)
        a = signals.rank_from_best(signals.student_entropy_BT)[mask_BT].numpy()
        b = signals.rank_from_best(-signals.position_BT.float())[mask_BT].numpy()
        for keep in (0.1, 0.3, 0.6):
            selected_BT = select_tokens(score_BT, mask_BT, keep=keep)
            kept = selected_BT[mask_BT].numpy()
            budget = int(kept.sum())
            # The kept set is the best i of a with the best j of b, i : j as share : 1 - share.
            time = np.minimum(a / share, b / (1 - share))
            order = np.sort(time)
            assert (time[kept] <= order[budget - 1] + 1e-4).all()
            deepest = order[budget - 1]
            assert kept[a <= share * deepest - 1].all()
            assert kept[b <= (1 - share) * deepest - 1].all()
        assert total > 20


def test_a_split_of_disjoint_rules_has_exactly_the_shares():
    """a ranks the first half of the tokens best, b the second: nothing counts for both."""
    from bench.selection.combinations import split

    n = 200
    uniform = torch.rand(1, n, generator=torch.Generator().manual_seed(1))
    place = torch.arange(n).float()[None]

    class Signals:
        mask_BT = torch.ones(1, n, dtype=torch.bool)
        uniform_BT = uniform

    score_BT = split(Signals(), (-place, place), (0.25,))
    for keep, of_a, of_b in ((0.1, 5, 15), (0.2, 10, 30), (0.4, 20, 60)):
        kept = select_tokens(score_BT, Signals.mask_BT, keep=keep)[0]
        assert abs(int(kept[:100].sum()) - of_a) <= 1 and abs(int(kept[100:].sum()) - of_b) <= 1


def test_mix_is_a_weighted_sum(signals):
    x = signals.mask_BT
    h, d = signals.student_entropy_BT[x].double(), signals.reverse_kl_BT[x].double()
    z = [(v - v.mean()) / v.std(correction=0) for v in (h, d)]
    expected = 0.3 * z[0] + 0.7 * z[1]
    torch.testing.assert_close(
        under(signals, "mix(0.3, entropy, 0.7, reverse_kl)").double(), expected,
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip
    ranks = [v.argsort().argsort() / (len(v) - 1) for v in (h, d)]
    torch.testing.assert_close(
        under(signals, "mix(1, entropy, -2, reverse_kl, norm='rank')").double(),
        (ranks[0] - 2 * ranks[1]).double(), rtol=1e-5, atol=1e-5,
    )  # fmt: skip


def test_gate_lets_through_what_is_at_or_above_the_quantile(signals):
    low = under(signals, "low_entropy").double().numpy()
    for at in (0.5, 0.9):
        gated = under(signals, f"gate(low_entropy, teachability, at={at})").numpy()
        is_open = low >= np.quantile(low, at)
        expected = np.where(is_open, under(signals, "teachability").numpy(), -np.inf)
        np.testing.assert_array_equal(gated, expected)
    assert get_selector("gate(low_entropy, teachability)").abstains


def test_shuffled_deals_the_same_values_out_at_random(signals):
    mask_BT = signals.mask_BT
    plain_BT = get_selector("teachability")(signals)
    dealt_BT = get_selector("shuffled(teachability)")(signals)
    assert torch.equal(dealt_BT[mask_BT].sort().values, plain_BT[mask_BT].sort().values)
    assert not torch.equal(dealt_BT[mask_BT], plain_BT[mask_BT])
    for row, mask_T in enumerate(mask_BT):
        inside_T = get_selector("shuffled(teachability, within='response')")(signals)[row]
        assert torch.equal(inside_T[mask_T].sort().values, plain_BT[row, mask_T].sort().values)
    # Each place gets each value equally often: the mean score of a place tends to the mean of all.
    batch = make_batch()
    total = torch.zeros_like(plain_BT)
    for step in range(400):
        total += get_selector("shuffled(teachability)")(batch.signals(step))
    spread = plain_BT[mask_BT].std() / 20
    assert float((total[mask_BT] / 400 - plain_BT[mask_BT].mean()).abs().max()) < 4.5 * spread


def test_reversed_and_bottom_turn_the_order_over_and_never_stays_never(signals):
    plain = under(signals, "teachability")
    assert torch.equal(under(signals, "bottom(teachability)"), -plain)
    mirrored = under(signals, "reversed(teachability)")
    torch.testing.assert_close(mirrored, plain.min() + plain.max() - plain)
    gated = under(signals, "gate(entropy, forward_kl)")
    for word in ("bottom", "reversed"):
        turned = under(signals, f"{word}(gate(entropy, forward_kl))")
        assert torch.equal(turned == -torch.inf, gated == -torch.inf)
        finite = gated > -torch.inf
        assert torch.equal(turned[finite].argsort(), (-gated[finite]).argsort())


def test_a_token_that_a_rule_never_keeps_is_out_and_out_of_the_statistics(signals):
    gate = under(signals, "gate(entropy, forward_kl)")
    finite = gate > -torch.inf
    for expression in ("product(gate(entropy, forward_kl), compatibility, norm='minmax')",
                       "mix(1, gate(entropy, forward_kl), 1, compatibility)"):  # fmt: skip
        assert torch.equal(under(signals, expression) > -torch.inf, finite)
    inside = under(signals, "normalised(gate(entropy, forward_kl), norm='minmax')")[finite]
    assert inside.min() == 0 and inside.max() == 1
    either = under(signals, "soft_or(gate(entropy, forward_kl), compatibility)")
    assert (either > -torch.inf).all()
    both = "soft_or(gate(entropy, forward_kl), gate(entropy, compatibility))"
    assert torch.equal(under(signals, both) > -torch.inf, finite)


# What is declared


def test_what_the_rules_declare_is_joined():
    found = get_selector("soft_or(entropy, product(abs_gap, tide_excess))")
    assert found.needs == ("student_entropy_BT", "student_logprob_BT", "teacher_logprob_BT")
    assert found.reads_sampled_token and found.abstains and found.kind == "score"
    assert not get_selector("soft_or(entropy, teachability)").reads_sampled_token
    assert not get_selector("soft_or(entropy, teachability)").abstains
    assert get_selector("shuffled(fire)").kind == "weight"
    assert get_selector("reversed(sure)").kind == "weight"
    assert get_selector("product(fire, entropy)").kind == "score"
    assert get_selector("shuffled(min_gap)").keep == 1.0
    assert get_selector("bottom(adakd)").sets_keep
    assert get_selector("product(min_gap, entropy)").keep is None
    assert get_selector("gate(rock, entropy)").has_memory


# Reading

BAD = {
    "product(forward_kl, comptibility)": ("did you mean 'compatibility'", 20),
    "prodct(forward_kl, compatibility)": ("unknown rule 'prodct'", 0),
    "product(forward_kl": ("'(' of product is not closed", 18),
    "product(forward_kl,, tip)": ("',' is not the name of a rule", 19),
    "product(a b)": ("a comma or ')' is missing before 'b'", 10),
    "product(entropy, tip) tip": ("the expression ends before this", 22),
    "product(tip)": ("something is missing; product is written product(a, b, ...)", 0),
    "product(3, tip)": ("3 is not a rule", 8),
    "bottom(entropy, tip)": ("one too many; bottom is written bottom(a)", 16),
    "split(2, entropy, tip)": ("2 is not accepted: a share between 0 and 1", 6),
    "split(entropy, 0.5, tip)": ("entropy is not a number", 6),
    "mix(0.5, entropy)": ("something is missing", 0),
    "mix(0.3, entropy, 0.7)": ("something is missing", 0),
    "mix(entropy, 0.3, tip, 0.7)": ("entropy is not a number", 4),
    "gate(entropy, tip, at=1.5)": ("at: 1.5 is not accepted", 22),
    "gate(entropy, tip, at='high')": ("at: 'high' is not a number", 22),
    "gate(entropy, tip, at=0.5, at=0.6)": ("at is given twice", 27),
    "gate(at=0.5, entropy, tip)": ("name=value comes last", 13),
    "tip(norm='rnk')": ("did you mean 'rank'", 9),
    "tip(norm=rank)": ("a number or a text in quotes is missing", 9),
    "soft_or(entropy, tip(nrm='rank'))": ("'nrm' is not a parameter of 'tip'", 25),
    "entropy(tip)": ("entropy is a rule and joins no others", 8),
    "product(entropy, tip, norm='l2')": ("norm: unknown name 'l2'", 27),
    "bottom(fire)": ("fire gives weights", 0),
    "product(entropy, 'tip')": ("'tip' is not a rule", 17),
    "product(entropy, tip;)": ("';' is not expected", 20),
    "product(entropy, __import__('os'))": ("unknown rule '__import__'", 17),
    "().__class__": ("'(' is not the name of a rule", 0),
    "product(entropy.__class__, tip)": ("'.' is not expected", 15),
}


@pytest.mark.parametrize("text", BAD)
def test_an_error_points_at_the_place(text):
    told, at = BAD[text]
    with pytest.raises(ConfigError) as caught:
        get_selector(text)
    message, shown, caret = str(caught.value).split("\n")
    assert told in message and f"at character {at + 1}" in message
    assert shown == f"  {text}" and caret == f"  {' ' * at}^"


def test_nothing_is_evaluated(monkeypatch):
    import builtins

    def forbidden(*arguments):
        raise AssertionError("evaluated")

    monkeypatch.setattr(builtins, "eval", forbidden)
    monkeypatch.setattr(builtins, "exec", forbidden)
    assert get_selector("soft_or(entropy, tip(norm='rank'))").name


def test_an_expression_has_one_spelling():
    for text in ("soft_or( entropy ,tip( norm = \"rank\" ), norm='q05' )",
                 "soft_or(entropy,tip(norm='rank'))"):  # fmt: skip
        assert get_selector(text).reference == "soft_or(entropy, tip(norm='rank'))"
    assert get_selector("mix(1.0, entropy, .5, first_n(n=3))").reference == (
        "mix(1, entropy, 0.5, first_n(n=3))"
    )
    assert get_selector("tip(norm='rank')").reference == "tip"
    assert get_selector("teachability_released(floor=1e-12)").reference == "teachability_released"


# Runs


def plan(selector, **values):
    return make_plan(Experiment.parse({"selector": selector, **values}), Runtime())


def test_a_run_of_an_expression_has_a_readable_name():
    found = plan("soft_or( entropy, teachability )")
    assert found.run_id.startswith("soft_or-entropy-teachability-keep0.05-s0-")
    assert found.experiment.selector == "soft_or(entropy, teachability)"
    assert slug("gate(correct, soft_or(rock, tip(norm='rank')))") == (
        "gate-correct-soft_or-rock-tip-norm-rank"
    )
    assert len(slug(f"product({', '.join(['teachability_released'] * 9)})")) == 60


def test_spellings_of_one_selector_are_one_run():
    ids = {
        plan(text).run_id for text in ("product(entropy, tip)", "product( entropy,tip,norm='q05')")
    }
    assert len(ids) == 1
    assert plan("tip(norm='rank')").run_id == plan("tip", selector_params={"norm": "rank"}).run_id
    assert plan("tip()").run_id == plan("tip").run_id == plan("tip(norm='minmax')").run_id
    assert plan("product(entropy, tip, norm='rank')").run_id not in ids


RULE = '''
from bench import selector

@selector("mine", needs=("student_entropy_BT",))
def mine(signals, power: float = {power}):
    """Keep mine.

    Source: a test.
    """
    return signals.student_entropy_BT ** power
'''


def test_rules_of_files_join_and_the_run_id_covers_their_sources(tmp_path, signals):
    ids = []
    for folder, power in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "my_rule.py"
        file.write_text(RULE.format(power=power))
        text = f"soft_or({file}:mine(power=2), tip)"
        expected = under(signals, f"soft_or({file}:mine, tip)", norm="q05") if power == 2 else None
        if expected is not None:
            assert torch.equal(under(signals, text), expected)
        ids.append(plan(text).run_id)
    assert ids[0] == ids[1] != ids[2]  # the same file elsewhere is the same run, an edited one not
    assert ids[0].startswith("soft_or-mine-power-2-tip-keep0.05")


def test_the_run_id_covers_every_rule_inside(monkeypatch):
    from bench.selection import selector as module

    before = plan("soft_or(entropy, product(forward_kl, compatibility))").run_id
    source_of = module.source_of
    for changed in ("entropy", "forward_kl", "compatibility"):
        monkeypatch.setattr(
            module, "source_of",
            lambda f, changed=changed: source_of(f) + ("#" if f.__name__ == changed else ""),
        )  # fmt: skip
        assert plan("soft_or(entropy, product(forward_kl, compatibility))").run_id != before
    monkeypatch.setattr(
        module, "source_of", lambda f: source_of(f) + ("#" if f.__name__ == "jsd" else "")
    )
    assert plan("soft_or(entropy, product(forward_kl, compatibility))").run_id == before
