"""Closed-form gradient norms against autograd through the training loss."""

import pytest
import torch

from bench.selection.formulas import Chunk
from bench.train.logit_gradients import CLOSED_FORMS, logit_gradient_norm, measured_objective
from bench.train.objectives import token_loss

PARAMS = {"jsd": {"beta": 0.3}}


@pytest.mark.parametrize("scale", [1.0, 6.0, 40.0])
@pytest.mark.parametrize("objective", CLOSED_FORMS)
def test_the_norm_is_that_of_the_losss_gradient_at_the_logits(objective, scale):
    generator = torch.Generator().manual_seed(0)
    student_NV = (scale * torch.randn(50, 30, generator=generator)).requires_grad_()
    teacher_NV = scale * torch.randn(50, 30, generator=generator)
    token_N = torch.randint(30, (50,), generator=generator)
    params = PARAMS.get(objective, {})
    loss_N = token_loss(objective, student_NV, teacher_NV, token_N, params)
    (grad_NV,) = torch.autograd.grad(loss_N.sum(), student_NV)
    chunk = Chunk(student_NV.detach(), teacher_NV, token_N, k=4)
    found_N = logit_gradient_norm(chunk, objective, params)
    torch.testing.assert_close(found_N, grad_NV.norm(dim=-1), rtol=2e-4, atol=2e-5)


def test_the_norm_is_zero_where_the_models_agree():
    logits_NV = torch.randn(5, 9, generator=torch.Generator().manual_seed(1))
    chunk = Chunk(logits_NV, logits_NV, torch.zeros(5, dtype=torch.int64), k=3)
    for objective in CLOSED_FORMS:
        norm_N = logit_gradient_norm(chunk, objective, {})
        assert float(norm_N.max()) < 1e-6


def test_an_objective_without_a_closed_form_is_measured_by_reverse_kl_and_says_so():
    assert measured_objective("forward_kl") == "forward_kl"
    assert measured_objective("another") == "reverse_kl"
