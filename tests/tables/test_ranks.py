"""Average ranks: over pairs, at each keep."""

import numpy as np
from planted_rows import PUBLISHED, planted, tables_of

from bench.tables import pages
from bench.tables.ranks import overall


def test_average_ranks_over_pairs():
    rows = [made for pair in ("tiny-qwen2.5", "tiny-qwen3") for made in planted(3, pair=pair)]
    found = overall(tables_of(rows))
    assert [ranks.keep for ranks in found] == [0.05, 0.2]
    for ranks in found:
        assert ranks.lines[0][:3] == ("better", 1.0, (1.0, 1.0))
        assert ranks.lines[-1][:3] == ("worse", 5.0, (5.0, 5.0))
        assert sum(mean for _, mean, *_ in ranks.lines) == 15
        for _, mean, (low, high), by_pair in ranks.lines:
            assert mean == np.mean(by_pair) and low <= high
    other = [m for p in ("tiny-qwen2.5", "tiny-qwen3") for m in planted(2, (0.05,), pair=p, k=4)]
    both = overall(tables_of(rows, other))
    assert [(ranks.regime, ranks.keep) for ranks in both[2:]] == [("k=4", 0.05)]
    assert both[:2] == found
    assert overall(tables_of(planted(3))) == []
    markdown = pages.documents(tables_of(planted(3)), PUBLISHED)["leaderboard.md"].decode()
    assert "Average rank over pairs: one pair" in markdown
