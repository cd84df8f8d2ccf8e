"""The two passes: chunked and skipping equals dense, and nothing off the selection matters."""

import pytest
import torch
from dense import (
    OBJECTIVES,
    WHOLE,
    assert_close,
    chunked_gradients,
    context,
    dense_logits,
    gradients,
    random_selection,
)
from small_pair import loaded_pair, rollout
from torch.utils._python_dispatch import TorchDispatchMode

from bench.core.logits import product
from bench.selection.formulas import signals_from_logits
from bench.selection.signals import SIGNAL_NAMES, base_signals, with_signals
from bench.train.hidden_states import PassSettings
from bench.train.loss import token_scale
from bench.train.objectives import token_loss
from bench.train.scoring import score_rollout


def one_response_without(selected_BT):
    """The same selection with the first response left out altogether."""
    selected_BT = selected_BT.clone()
    selected_BT[0] = False
    return selected_BT


def dense_gradients(pair, sample, selected_BT, objective, normalize):
    student_BTV = dense_logits(pair, pair.student, sample)
    with torch.no_grad():
        teacher_BTV = dense_logits(pair, pair.teacher, sample)
    loss_BT = token_loss(
        objective, student_BTV.flatten(0, 1), teacher_BTV.flatten(0, 1),
        sample.token_BT.flatten(), OBJECTIVES[objective],
        {name: value_BT.flatten() for name, value_BT in context(sample).items()},
    ).view(sample.mask_BT.shape)  # fmt: skip
    loss_BT = torch.where(selected_BT, loss_BT, 0)
    match normalize:
        case "selected":
            loss = loss_BT.sum() / selected_BT.sum()
        case "all":
            loss = loss_BT.sum() / sample.mask_BT.sum()
        case "per_response":
            rows = selected_BT.any(1)
            loss = (loss_BT.sum(1)[rows] / selected_BT.sum(1)[rows]).mean()
    loss.backward()
    return float(loss.detach()), gradients(pair)


def test_every_objective_is_compared_with_the_dense_computation():
    from bench.core.objectives import OBJECTIVES as KNOWN

    assert set(OBJECTIVES) == set(KNOWN)


@pytest.mark.parametrize("architecture", ["qwen3", "qwen2"])
def test_scores_of_the_chunked_pass_equal_those_of_dense_logits(architecture):
    pair = loaded_pair(architecture)
    sample = rollout(pair)
    settings = PassSettings(micro_batch=3, logit_chunk=5 * pair.vocabulary.size)
    scored = score_rollout(
        pair.student, pair.teacher, sample, pair.vocabulary, SIGNAL_NAMES, 8, settings
    )
    base = base_signals(sample.token_BT, sample.mask_BT, seed=0, step=0, row_key_B=sample.row_key_B)
    chunked = with_signals(base, scored.values)
    with torch.no_grad():
        dense = signals_from_logits(
            dense_logits(pair, pair.student, sample), dense_logits(pair, pair.teacher, sample),
            sample.token_BT, sample.mask_BT, k=8, row_key_B=sample.row_key_B,
        )  # fmt: skip
    assert torch.equal(chunked.uniform_BT, dense.uniform_BT)
    for name in SIGNAL_NAMES:
        one, other = getattr(chunked, name), getattr(dense, name)
        if name.endswith("id_BTK"):
            assert (one == other).float().mean() > 0.999, name
        else:
            torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5, msg=name)


@pytest.mark.parametrize("normalize", ["selected", "all", "per_response"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("tied", [True, False])
def test_the_gradient_equals_that_of_the_dense_computation(objective, normalize, tied):
    pair = loaded_pair("qwen3", tied)
    sample = rollout(pair)
    selected_BT = one_response_without(random_selection(sample, 0.2))
    settings = PassSettings(micro_batch=3, logit_chunk=2 * pair.vocabulary.size)
    dense_loss, dense = dense_gradients(pair, sample, selected_BT, objective, normalize)
    loss, chunked, _ = chunked_gradients(pair, sample, selected_BT, objective, normalize, settings)
    assert loss == pytest.approx(dense_loss, rel=1e-5, abs=5e-6)  # surrogates cancel to near 0
    assert_close(chunked, dense)


@pytest.mark.parametrize("micro_batch, positions", [(1, 1), (3, 7), (8, 1), (8, 64)])
def test_micro_batch_and_chunk_size_change_no_gradient(micro_batch, positions):
    pair = loaded_pair()
    sample = rollout(pair)
    selected_BT = random_selection(sample, 0.3)
    _, whole, _ = chunked_gradients(pair, sample, selected_BT)
    settings = PassSettings(micro_batch, positions * pair.vocabulary.size)
    _, pieces, _ = chunked_gradients(pair, sample, selected_BT, settings=settings)
    assert_close(pieces, whole)


def test_the_teachers_states_from_scoring_serve_the_loss():
    pair = loaded_pair()
    sample = rollout(pair)
    selected_BT = random_selection(sample, 0.3)
    scored = score_rollout(
        pair.student, pair.teacher, sample, pair.vocabulary, ("reverse_kl_BT",), 4, WHOLE
    )
    _, reused, scored_again = chunked_gradients(
        pair, sample, selected_BT, teacher_hidden_ND=scored.teacher_hidden_ND
    )
    _, fresh, scored_now = chunked_gradients(pair, sample, selected_BT)
    assert scored_again == 0
    assert scored_now == int(selected_BT.sum())
    assert_close(reused, fresh)


def test_tokens_off_the_selection_cannot_change_the_gradient():
    pair = loaded_pair()
    sample = rollout(pair)
    selected_BT = random_selection(sample, 0.2)
    _, before, _ = chunked_gradients(pair, sample, selected_BT)
    # Whatever is sampled after a response's last selected token, and in its padding, is skipped.
    rows, positions = sample.mask_BT.shape
    last_B = (selected_BT * torch.arange(1, positions + 1)).amax(1)
    sequence_BL = sample.sequence_BL.clone()
    for row in range(rows):
        sequence_BL[row, int(sample.prompt_length_B[row] + last_B[row]) :] = 7
    token_BT = torch.where(selected_BT, sample.token_BT, 5)
    changed = type(sample)(**{**vars(sample), "sequence_BL": sequence_BL, "token_BT": token_BT})
    _, after, _ = chunked_gradients(pair, changed, selected_BT, "reverse_kl")
    for name, gradient in before.items():
        assert torch.equal(gradient, after[name]), name


def test_logits_off_the_selection_get_exactly_no_gradient(monkeypatch):
    pair = loaded_pair()
    sample = rollout(pair)
    selected_BT = random_selection(sample, 0.2)
    pieces = []
    head = pair.student.get_output_embeddings()
    scale_BT = token_scale(selected_BT.float(), sample.mask_BT, "selected")
    student_BTV = dense_logits(pair, pair.student, sample).detach().requires_grad_()
    teacher_BTV = dense_logits(pair, pair.teacher, sample)
    loss_N = token_loss("reverse_kl", student_BTV[selected_BT], teacher_BTV[selected_BT],
                        sample.token_BT[selected_BT])  # fmt: skip
    (scale_BT[selected_BT] * loss_N).sum().backward()
    assert float(student_BTV.grad[~selected_BT].abs().max()) == 0
    assert float(student_BTV.grad[selected_BT].abs().amax(-1).min()) > 0

    def watched(hidden_ND, weight_VD, space):
        if weight_VD.shape[1] == head.weight.shape[1]:
            pieces.append(hidden_ND.shape[0])
        return product(hidden_ND, weight_VD, space)

    # The engine projects the selected positions and no others.
    monkeypatch.setattr("bench.train.loss.product", watched)
    chunked_gradients(pair, sample, selected_BT)
    assert sum(pieces) == int(selected_BT.sum())


def test_responses_and_tails_without_a_selected_token_are_not_computed(monkeypatch):
    pair = loaded_pair()
    sample = rollout(pair)
    selected_BT = torch.zeros_like(sample.mask_BT)
    selected_BT[2, 3] = selected_BT[5, 1] = sample.mask_BT[2, 3] and sample.mask_BT[5, 1]
    assert selected_BT.sum() == 2
    fed = []
    inner = pair.student.base_model.forward
    monkeypatch.setattr(
        pair.student.base_model, "forward",
        lambda *args, **kwargs: (fed.append(kwargs["input_ids"].shape), inner(*args, **kwargs))[1],
    )  # fmt: skip
    chunked_gradients(pair, sample, selected_BT)
    longest = max(int(sample.prompt_length_B[2]) + 3, int(sample.prompt_length_B[5]) + 1)
    assert [tuple(shape) for shape in fed] == [(2, longest)]


def test_an_empty_selection_gives_loss_zero_and_no_gradient():
    pair = loaded_pair()
    sample = rollout(pair)
    loss, found, scored = chunked_gradients(pair, sample, torch.zeros_like(sample.mask_BT))
    assert (loss, scored) == (0.0, 0)
    assert all(float(gradient.abs().max()) == 0 for gradient in found.values())


def test_padded_rows_of_the_head_get_no_gradient():
    pair = loaded_pair()
    sample = rollout(pair)
    _, found, _ = chunked_gradients(pair, sample, sample.mask_BT)
    embedding = found["model.embed_tokens.weight"]
    assert embedding.shape[0] == 672 > pair.vocabulary.size
    assert float(embedding[pair.vocabulary.size :].abs().max()) == 0


class LargestTensor(TorchDispatchMode):
    """The largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return result


@pytest.mark.parametrize("needs", [("reverse_kl_BT", "teacher_topk_id_BTK"), ()])
def test_no_tensor_of_the_engine_grows_with_positions_times_vocabulary(needs):
    """B·T·V would be 40 times the chunk; nothing may be larger than the weights or one chunk."""
    pair = loaded_pair()
    vocabulary = pair.vocabulary.size
    sample = rollout(pair, count=16)
    tokens = int(sample.mask_BT.sum())
    settings = PassSettings(micro_batch=4, logit_chunk=4 * vocabulary)
    with LargestTensor() as largest:
        scored = score_rollout(
            pair.student, pair.teacher, sample, pair.vocabulary, needs, 4, settings
        )
        chunked_gradients(
            pair, sample, sample.mask_BT, "jsd", "selected", settings, scored.teacher_hidden_ND
        )
    weights = max(p.numel() for m in (pair.student, pair.teacher) for p in m.parameters())
    limit = max(weights, 4 * 704)
    assert tokens * vocabulary > 5 * limit
    assert largest.numel <= limit


def test_signals_of_the_student_alone_never_run_the_teacher(monkeypatch):
    pair = loaded_pair()
    sample = rollout(pair)
    monkeypatch.setattr(pair.teacher.base_model, "forward", None)
    scored = score_rollout(
        pair.student, pair.teacher, sample, pair.vocabulary, ("student_entropy_BT",), 4, WHOLE
    )
    assert scored.teacher_hidden_ND is None
    assert scored.values["student_entropy_BT"].shape == (int(sample.mask_BT.sum()),)
