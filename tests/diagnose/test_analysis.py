"""The analyses on planted worlds: the verdict follows the world, and noise is no signal."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_contexts import analyse, contexts

from bench.diagnose.analysis import RANDOM, comparable, normalised, spread
from bench.diagnose.measured import RESOLUTION, gains, on_grid
from bench.diagnose.record import make_record
from bench.diagnose.record_files import documents, to_text
from bench.diagnose.run_diagnostic import plain
from bench.selection.formulas import signals_from_logits


def record_of(measured, **settings):
    return make_record(analyse(measured, **settings))


def verdict(record, score="teachability", reference="forward_kl"):
    found = [v for v in record["verdicts"] if (v["score"], v["reference"]) == (score, reference)]
    return found[0]["verdict"]


@pytest.fixture(scope="module")
def learnable():
    """Only what lies within the student's reach is removed."""
    return record_of(contexts(lambda d, c: 0.3 * d * (c > 0.5)))


@pytest.fixture(scope="module")
def plain_kl():
    """Disagreement is removed wherever it lies."""
    return record_of(contexts(lambda d, c: 0.3 * d))


def test_gain_is_the_kl_that_an_update_removes_in_closed_form():
    """Two tokens: q = (3/4, 1/4); p goes from (1/2, 1/2) to q, which removes all of the KL."""

    def signals(student):
        logits = [torch.tensor(p).log().view(1, 1, 2) for p in (student, [0.75, 0.25])]
        zero = torch.zeros(1, 1, dtype=torch.int64)
        return signals_from_logits(*logits, zero, zero == 0, k=1)

    def values(student):
        found = signals(student)
        return {n: getattr(found, f"{n}_BT")[0].numpy() for n in ("forward_kl", "reverse_kl")}

    before, after = values([0.5, 0.5]), values([0.75, 0.25])
    found = gains(before, [after, before], RESOLUTION["float32"])
    forward = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    reverse = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    assert found["forward_absolute"][:, 0] == pytest.approx([forward, 0], abs=1e-5)
    assert found["reverse_absolute"][:, 0] == pytest.approx([reverse, 0], abs=1e-5)
    assert found["forward_relative"][:, 0] == pytest.approx([1, 0], abs=1e-4)


def test_relative_gains_are_winsorised_in_each_seed_and_noise_is_no_gain():
    before = {n: np.full(1000, 1.0) for n in ("forward_kl", "reverse_kl")}
    after = {n: np.linspace(0, 2, 1000) for n in before}
    before["forward_kl"][0], after["forward_kl"][0] = 3e-7, 1e-7  # rounding
    found = gains(before, [after], 1e-5)
    assert found["forward_absolute"][0, 0] == found["forward_relative"][0, 0] == 0
    low, high = np.percentile(found["reverse_absolute"][0], [1, 99])
    assert found["reverse_relative"].min() == pytest.approx(low)
    assert found["reverse_relative"].max() == pytest.approx(high)


def test_where_only_learnable_tokens_improve_dc_predicts_better_than_d(learnable):
    assert verdict(learnable) == "yes" and verdict(learnable, "teachability_raw") == "yes"
    assert learnable["delta_spearman"]["ci95"][0] > 0.05
    top = learnable["matched_top"]["0.05"]
    assert top["teachability"]["gain"] > top["forward_kl"]["gain"] > top["random"]["gain"]
    assert top["teachability"]["vs_forward_kl"]["ci95"][0] > 0
    split = learnable["regressions"]["16"]["split"]
    assert split["per_nat"]["learnable"]["value"] == pytest.approx(0.3, abs=0.05)
    assert split["per_nat"]["difference"]["ci95"][0] > 0.1
    assert split["delta_r2_out_of_prompt"]["ci95"][0] > 0.05
    quarter = learnable["quadrant3"]
    assert quarter["compatibility"]["difference"]["ci95"][0] > 0
    assert learnable["within_prompt_matching"]["difference"]["ci95"][0] > 0


def test_where_all_disagreement_improves_dc_does_not_win(plain_kl):
    assert verdict(plain_kl) == verdict(plain_kl, "teachability_raw") == "no"
    split = plain_kl["regressions"]["16"]["split"]
    low, high = split["per_nat"]["difference"]["ci95"]
    assert low < 0 < high
    assert plain_kl["regressions"]["16"]["with_compatibility"]["delta_r2_out_of_prompt"][
        "value"
    ] == pytest.approx(0, abs=0.002)
    low, high = plain_kl["within_prompt_matching"]["difference"]["ci95"]
    assert low < 0.02 and high > -0.02


def test_rounding_noise_of_a_constant_c_is_no_signal_though_it_predicts_the_gain():
    """C is 1 up to float32 rounding, and the rounding itself goes with the gain."""
    measured = contexts(
        lambda d, c: 0.1 * d + 1e6 * (c - 1), compatibility=lambda g, n: 1 + 3e-7 * g.random(n)
    )
    record = record_of(measured)
    assert spread(measured.compatibility_N[16]) < 1e-5
    assert record["spearman"]["compatibility"] == {"value": None, "ci95": None}
    assert record["auroc"]["compatibility"]["value"] is None
    assert verdict(record) == verdict(record, "teachability_raw") == "tie"
    for model in ("with_compatibility", "split"):
        delta = record["regressions"]["16"][model]["delta_r2_out_of_prompt"]
        assert abs(delta["value"]) < 0.03
    split = record["regressions"]["16"]["split"]["per_nat"]
    assert split["difference"]["value"] == pytest.approx(0, abs=1e-9)
    assert record["within_prompt_matching"]["pairs"] == 0
    both = [record["matched_top"]["0.05"][s] for s in ("compatibility", "random")]
    assert both[0]["vs_random"]["ci95"][0] < 0 < both[0]["vs_random"]["ci95"][1]
    quarter = record["quadrant3"]["compatibility"]["difference"]["ci95"]
    assert quarter[0] < 0 < quarter[1]


def test_noise_in_most_contexts_is_no_signal_where_a_few_have_real_values():
    generator = np.random.default_rng(1)
    value_N = 1 + 3e-7 * generator.random(1000)
    value_N[:30] = generator.random(30)
    assert len(np.unique(comparable(value_N, 1e-5))) <= 31
    tiny_N = 1e-9 * generator.random(1000)  # weights that sum to 1 have a scale of their own
    assert len(np.unique(comparable(tiny_N, 1e-5))) > 900
    some_N = np.array([-np.inf, 0.0, 1.0])
    assert comparable(some_N, 1e-5).tolist() == some_N.tolist()


def test_random_is_its_expectation(learnable):
    assert learnable["spearman"][RANDOM] == {"value": 0, "ci95": [0, 0]}
    assert learnable["auroc"][RANDOM]["value"] == 0.5
    mean = learnable["gain"]["mean"]["value"]
    assert all(top[RANDOM]["gain"] == mean for top in learnable["matched_top"].values())


def test_the_oracle_is_above_every_rule_and_that_of_the_other_seeds_nearly(learnable):
    for top in learnable["matched_top"].values():
        assert max(top, key=lambda score: top[score]["gain"]) == "oracle"
        assert top["oracle"]["gain"] > top["oracle_other_seeds"]["gain"]


def test_one_seed_has_no_oracle_of_others_and_narrower_intervals():
    measured = contexts(lambda d, c: 0.3 * d)
    alone = replace(measured, gain_SN={k: g[:1] for k, g in measured.gain_SN.items()})
    record = record_of(alone)
    assert "oracle_other_seeds" not in record["spearman"]
    assert "1 seed:" in record["verdicts"][0]["line"]


def test_an_update_that_changes_nothing_defines_no_correlation():
    record = record_of(contexts(lambda d, c: 0 * d, noise=0.0))
    assert record["verdicts"] == [] and record["delta_spearman"]["value"] is None
    assert all(found["value"] is None for s, found in record["auroc"].items() if s != RANDOM)
    assert record["gain"]["none_share"] == 1
    json.dumps(plain(record), allow_nan=False)


def test_verdicts_name_their_size_and_say_tie_under_the_smallest_effect():
    measured = contexts(lambda d, c: 0.3 * d)
    almost = measured.score_N["forward_kl"] + 1e-3 * measured.score_N["random"]
    record = record_of(replace(measured, score_N={**measured.score_N, "almost": almost}))
    assert verdict(record, "almost") == "tie"
    line = record["verdicts"][0]["line"]
    assert line.startswith("D·C predicts G better than D: ΔSpearman = -0.")
    assert line.endswith("over 800 contexts in 40 prompts, 3 seeds: no")


def test_abstaining_rules_and_gradients_are_measured():
    measured = contexts(lambda d, c: 0.3 * d)
    few = np.where(measured.score_N["forward_kl"] > 2, 1.0, -np.inf)
    record = record_of(
        replace(
            measured,
            score_N={**measured.score_N, "few": few},
            gradient_N={"forward_kl": measured.divergence_N},
        )
    )
    kept = np.isfinite(few)
    mean = measured.gain_SN["forward_absolute"][:, kept].mean()
    assert record["matched_top"]["0.2"]["few"]["gain"] == pytest.approx(mean, abs=1e-5)
    covered = record["gradients"]["forward_kl"]["0.2"]
    best = np.sort(measured.divergence_N)[::-1]
    assert covered["forward_kl"]["share"] == pytest.approx(best[:160].sum() / best.sum(), abs=1e-4)
    assert covered[RANDOM]["share"] == 0.2


def test_the_same_seed_gives_the_same_record_and_the_record_survives_its_text(learnable):
    again = record_of(contexts(lambda d, c: 0.3 * d * (c > 0.5)))
    assert plain(again) == plain(learnable)
    text = to_text(plain(learnable))
    assert json.loads(text) == plain(learnable)
    assert max(map(len, text.splitlines())) < 400


def test_normalised_is_the_rule_of_the_selectors():
    value_N = np.linspace(0, 1, 101)
    assert normalised(value_N) == pytest.approx(np.clip((value_N - 0.05) / 0.9, 0, 1))
    assert (normalised(1 + 1e-7 * value_N) == 0.5).all()
    assert on_grid(np.array([-3e-6, 4e-6, 1.2e-5]), 1e-5) == pytest.approx([0, 0, 1e-5])


def test_a_page_and_figures_are_a_function_of_the_record(learnable):
    whole = plain(learnable) | {
        "pair": "planted", "update": "train", "update_seeds": [0, 1, 2],
        "update_experiment": {}, "diagnosis": {"draws": 100}, "skipped": {"full": "keeps all"},
    }  # fmt: skip
    one, other = documents(whole), documents(json.loads(to_text(whole)))
    assert all(one[n] == other[n] for n in one if not n.endswith(".png"))
    page = one["diagnostic.md"].decode()
    assert learnable["verdicts"][0]["line"] in page
    assert {f"figures/{n}.svg" for n in ("spearman", "top", "deciles", "plane")} <= set(one)
