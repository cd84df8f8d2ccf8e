"""Statistics over every position of every row, padding as 0, as the release has them."""

import numpy as np
import pytest
from batch_signals import signals_of
from scipy import stats

from bench import get_selector


def over_all(x_BT, mask_BT):
    return np.where(mask_BT, x_BT, 0.0).ravel()


def test_every_statistic_counts_padding_as_zero(make_batch):
    batch = make_batch(seed=3, vocabulary=16)
    signals = signals_of(batch)
    mask_BT, x_BT = signals.mask_BT.numpy(), signals.student_entropy_BT
    assert not mask_BT.all()
    rows, everything = signals.over_rows(), over_all(x_BT.double().numpy(), mask_BT)
    x_N = x_BT.numpy()[mask_BT]
    for norm, low, high in (
        ("norm_q05", *np.quantile(everything, [0.05, 0.95])),
        ("norm_minmax", everything.min(), everything.max()),
    ):
        found_BT = getattr(rows, norm)(x_BT).numpy()
        np.testing.assert_allclose(found_BT[mask_BT], np.clip((x_N - low) / (high - low), 0, 1),
                                   rtol=1e-4, atol=1e-6)  # fmt: skip
        assert (found_BT[~mask_BT] == 0).all()
        assert np.abs(found_BT - getattr(signals, norm)(x_BT).numpy()).max() > 0.01
    expected = ((everything - everything.mean()) / everything.std()).reshape(mask_BT.shape)
    np.testing.assert_allclose(rows.zscore(x_BT).numpy()[mask_BT], expected[mask_BT], rtol=1e-4)
    ranks = (stats.rankdata(everything) - 1) / (everything.size - 1)
    np.testing.assert_allclose(
        rows.percentile_rank(x_BT).numpy()[mask_BT],
        ranks.reshape(mask_BT.shape)[mask_BT],
        rtol=1e-5,
    )
    assert rows.quantile(x_BT, 0.3) == pytest.approx(np.quantile(everything, 0.3), rel=1e-5)


def test_a_rule_scores_over_rows_whatever_it_declares(make_batch):
    batch = make_batch(seed=3, vocabulary=16)
    signals = signals_of(batch)
    rule = get_selector("entropy_q05")
    found_BT = rule(signals.over_rows())
    assert found_BT.equal(signals.over_rows().norm_q05(signals.student_entropy_BT))
    assert not found_BT.equal(rule(signals))
    by_rank = get_selector("teachability", norm="rank")
    assert not by_rank(signals.over_rows()).equal(by_rank(signals))
