"""What several files of the room ask for."""

import pytest
import torch
from losses import N, V


@pytest.fixture(params=[1.0, 6.0], ids=["flat", "peaked"])
def logits(request):
    """Student and teacher logits, float32 (N, V), and sampled tokens (N,)."""
    generator = torch.Generator().manual_seed(3)
    student = request.param * torch.randn(N, V, generator=generator)
    teacher = request.param * torch.randn(N, V, generator=generator)
    return student, teacher, torch.randint(V, (N,), generator=generator)
