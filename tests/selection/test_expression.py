"""Selector expressions: equal to the rules they spell, with what those declare, as runs."""

import pytest
import torch
from batch_signals import under

from bench import get_selector
from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError
from bench.run.plan import make_plan, slug
from bench.selection.contract_batch import make_batch


@pytest.fixture
def signals():
    return make_batch().signals()


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
    "product(complement(entropy, norm='minmax'), forward_kl, norm='minmax')": "tip_q3",
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
