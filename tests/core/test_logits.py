"""Logits of a head: over the shared vocabulary alone, wherever they are written."""

import pytest
import torch

from bench.core.logits import head_logits, log_softmax, project
from bench.core.sampling import Vocabulary

HIDDEN, ROWS, SIZE, EXCLUDED = 4, 9, 7, (2, 5)


@pytest.mark.parametrize("has_space", [False, True])
def test_a_head_gives_the_shared_vocabulary_and_no_excluded_id(has_space):
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(3, HIDDEN, generator=generator)
    weight_VD = torch.randn(ROWS, HIDDEN, generator=generator)
    weight_VD[[*EXCLUDED, 7, 8]] = 50 * hidden_ND[0]  # far the likeliest, if they were there
    space = torch.full((3 * ROWS,), torch.nan) if has_space else None
    found_NV = project(hidden_ND, weight_VD, Vocabulary(SIZE, EXCLUDED), space)
    assert found_NV.shape == (3, SIZE)
    kept = [0, 1, 3, 4, 6]
    expected_NV = torch.stack([(weight_VD[kept] * hidden).sum(1) for hidden in hidden_ND])
    torch.testing.assert_close(found_NV[:, kept], expected_NV)
    probability_NV = log_softmax(found_NV).exp()
    assert probability_NV[:, EXCLUDED].eq(0).all()
    torch.testing.assert_close(probability_NV[:, kept], expected_NV.softmax(-1))


def test_a_models_own_head_is_cut_likewise():
    model = torch.nn.Module()
    model.get_output_embeddings = lambda: head
    head = torch.nn.Linear(HIDDEN, ROWS, bias=False)
    hidden_ND = torch.randn(2, HIDDEN)
    found_NV = head_logits(model, hidden_ND, Vocabulary(SIZE, EXCLUDED))
    expected_NV = head(hidden_ND)[:, :SIZE].softmax(-1)
    expected_NV[:, EXCLUDED] = 0
    expected_NV /= expected_NV.sum(-1, keepdim=True)
    torch.testing.assert_close(found_NV.softmax(-1), expected_NV)
