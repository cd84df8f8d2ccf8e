"""Scores and masks of every kind, for properties of a selection."""

from math import inf, nan

import torch
from hypothesis import strategies as st

KEEPS = ("0.01", "0.05", "0.07", "0.1", "0.29", "0.3", "0.5", "0.57", "0.99", "1.0", "1")


@st.composite
def cases(draw, scores=(-inf, -2.0, -1.0, 0.0, 0.5, 0.5, 1.0, 7.0, inf)):
    """(score_BT, mask_BT): many ties, any mask (empty rows, holes), NaN off the mask."""
    rows, positions = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    count = rows * positions
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    score = draw(st.lists(st.sampled_from(scores), min_size=count, max_size=count))
    score = torch.tensor(score, dtype=torch.float32).masked_fill(~mask, nan)
    return score.view(rows, positions), mask.view(rows, positions)
