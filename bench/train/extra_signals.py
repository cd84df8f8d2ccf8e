"""What a rule may ask for beyond the two models' logits, computed only when it does."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.core.errors import BenchError
from bench.core.processes import ALONE, Processes, reshard
from bench.pairs.models import LoadedPair
from bench.tasks.prompts import Prompt, counterfactual
from bench.train.hidden_states import PassSettings
from bench.train.metrics import Totals
from bench.train.other_prompts import after, logprob_on_topk, negatives, prompt_jsd
from bench.train.rollout import Rollout
from bench.train.scoring import sampled_logprob
from bench.train.setup import Setup


@dataclass(frozen=True)
class ExtraSources:
    """What the extra signals of a step are found from."""

    rollout: Rollout
    """Of the whole batch."""
    own: Rollout
    """This process's rows of it."""
    prompts: Sequence[Prompt]
    is_correct: Callable[[Prompt, str], bool]
    forward_kl: Callable[[], Tensor]
    """KL(q‖p) of every sampled token of the batch as the student is now, (N,)."""
    update_on_all: Callable[[], None]
    """One update of the student on every token of the batch."""
    scorer: torch.nn.Module
    """The student whose signals the rule reads: as it is now, or before training."""
    k: int
    """Size of the top-K sets."""
    student_hidden_ND: Tensor | None
    """The scorer's hidden states of this process's rows, where they are known."""
    teacher_hidden_ND: Tensor | None
    """Likewise the teacher's."""
    totals: Totals
    """What the run has counted, which an update that is undone must not change."""


OF_TEACHER = ("negative_logprob_BT", "teacher_one_change_jsd_BT", "teacher_paraphrase_jsd_BT")
"""Signals that take passes of the teacher beside its scoring pass; they count in the run's cost."""


def extra_signal(name: str, sources: ExtraSources, setup: Setup) -> Tensor:
    """One of EXTRA_SIGNALS: (B,), or (N,) or (N, K) over the sampled tokens of the batch."""
    match name:
        case "reward_B":
            return reward_B(sources.rollout, sources.prompts, sources.is_correct, setup.pair)
        case "gain_BT":
            return gain(sources, setup)
    if name in FREE:
        return FREE[name](sources.rollout)
    if name in OF_TEACHER:
        again = name != "negative_logprob_BT" and sources.teacher_hidden_ND is None
        sources.totals.scored += (1 + again) * int(sources.rollout.mask_BT.sum())
    with torch.no_grad():
        return setup.processes.join(_own_signal(name, sources, setup))


def _own_signal(name: str, sources: ExtraSources, setup: Setup) -> Tensor:
    """Of this process's rows: a signal that takes another pass of a model over them."""
    own, pair, scorer = sources.own, setup.pair, sources.scorer
    common = (pair.vocabulary, setup.passes, setup.processes)

    def told(how: Callable[[Prompt], str]) -> list[list[int]]:
        return _tokens_after(own, sources.prompts, pair, how)

    def jsd(model: torch.nn.Module, how: Callable[[Prompt], str], hidden_ND: Tensor | None):
        return prompt_jsd(model, own, told(how), *common, hidden_ND)

    match name:
        case "reference_logprob_BT":
            return sampled_logprob(_reference(setup), own, *common)
        case "reference_logprob_on_student_topk_BTK":
            return logprob_on_topk(
                _reference(setup), scorer, own, sources.k, *common, sources.student_hidden_ND
            )
        case "counterfactual_logprob_BT":
            return counterfactual_logprob(
                scorer, own, sources.prompts, pair, setup.passes, setup.processes
            )
        case "one_change_logprob_BT":
            return sampled_logprob(scorer, after(own, told(_one_change)), *common)
        case "one_change_jsd_BT":
            return jsd(scorer, _one_change, sources.student_hidden_ND)
        case "paraphrase_jsd_BT":
            return jsd(scorer, _paraphrase, sources.student_hidden_ND)
        case "teacher_one_change_jsd_BT":
            return jsd(setup.teacher, _one_change, sources.teacher_hidden_ND)
        case "teacher_paraphrase_jsd_BT":
            return jsd(setup.teacher, _paraphrase, sources.teacher_hidden_ND)
        case "negative_logprob_BT":
            other = negatives(sources.prompts)
            moved = after(own, told(lambda prompt: other[prompt.id].text))
            return sampled_logprob(setup.teacher, moved, *common)
    raise ValueError(f"{name!r} is no extra signal")


def _reference(setup: Setup) -> torch.nn.Module:
    assert setup.reference is not None
    return setup.reference


def gain(sources: ExtraSources, setup: Setup) -> Tensor:
    """KL(q‖p) before minus after one update on every token, which is undone again; (N,)."""
    before_N = sources.forward_kl()
    reshard(setup.student)
    weights = [parameter.detach().clone() for parameter in setup.student.parameters()]
    optimizer = deepcopy(setup.optimizer.state_dict())
    schedule = deepcopy(setup.schedule.state_dict())
    totals = sources.totals
    clipped, scored = totals.clipped_steps, totals.scored
    sources.update_on_all()
    after_N = sources.forward_kl()
    reshard(setup.student)
    with torch.no_grad():
        for parameter, weight in zip(setup.student.parameters(), weights, strict=True):
            parameter.copy_(weight)
    setup.optimizer.load_state_dict(optimizer)
    setup.schedule.load_state_dict(schedule)
    totals.clipped_steps, totals.scored = clipped, scored
    return before_N - after_N


def reward_B(
    rollout: Rollout,
    prompts: Sequence[Prompt],
    is_correct: Callable[[Prompt, str], bool],
    pair: LoadedPair,
) -> Tensor:
    """1.0 where a response has the right answer, else 0.0; float32 (B,).

    The text is what evaluation reads: everything before the stop token.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    found = []
    for row, prompt_id in enumerate(rollout.prompt_id_B):
        start = int(rollout.prompt_length_B[row])
        tokens = rollout.sequence_BL[row, start : start + rollout.length_B[row]].tolist()
        if rollout.finish_reason_B[row] == "stop":
            tokens = tokens[:-1]
        text = pair.tokenizer.decode(
            tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        found.append(float(is_correct(by_id[prompt_id], str(text))))
    return torch.tensor(found, device=rollout.mask_BT.device)


def group_B(rollout: Rollout) -> Tensor:
    """int64 (B,): the place of each response's prompt among the batch's prompts."""
    place = {name: i for i, name in enumerate(dict.fromkeys(rollout.prompt_id_B))}
    return torch.tensor([place[p] for p in rollout.prompt_id_B], device=rollout.mask_BT.device)


def counterfactual_logprob(
    student,
    rollout: Rollout,
    prompts: Sequence[Prompt],
    pair: LoadedPair,
    settings: PassSettings,
    processes: Processes = ALONE,
) -> Tensor:
    """log p(y) of the same responses after their prompts' counterfactuals; float32 (N,)."""
    encoded = _tokens_after(rollout, prompts, pair, counterfactual)
    return sampled_logprob(student, after(rollout, encoded), pair.vocabulary, settings, processes)


def _tokens_after(
    rollout: Rollout, prompts: Sequence[Prompt], pair: LoadedPair, told: Callable[[Prompt], str]
) -> list[list[int]]:
    """What each response is put after: what `told` makes of its prompt, as token ids."""
    by_id = {prompt.id: told(prompt) for prompt in prompts}
    texts = [by_id[prompt_id] for prompt_id in rollout.prompt_id_B]
    return [pair.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def _paraphrase(prompt: Prompt) -> str:
    return _required(prompt, prompt.paraphrase, "paraphrase")


def _one_change(prompt: Prompt) -> str:
    return _required(prompt, prompt.one_change, "one_change")


def _required(prompt: Prompt, text: str | None, what: str) -> str:
    if text is None:
        raise BenchError(f"prompt {prompt.id!r} has no {what}")
    return text


def is_stop(rollout: Rollout) -> Tensor:
    """float32 (N,): 1 where the masked token ends its response."""
    mask_BT = rollout.mask_BT
    stops_B1 = torch.tensor(
        [[reason == "stop"] for reason in rollout.finish_reason_B], device=mask_BT.device
    )
    last_B1 = torch.tensor(rollout.length_B, device=mask_BT.device)[:, None] - 1
    place_BT = torch.arange(mask_BT.shape[1], device=mask_BT.device).expand_as(mask_BT)
    return ((place_BT == last_B1) & stops_B1)[mask_BT].float()


FREE: dict[str, Callable[[Rollout], Tensor]] = {"group_B": group_B, "stop_BT": is_stop}
"""Extra signals that a rollout alone tells."""
