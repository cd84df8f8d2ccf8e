"""What a rule may ask for beyond the two models' logits, computed only when it does."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.core.processes import ALONE, Processes, reshard
from bench.pairs.models import LoadedPair
from bench.tasks.prompts import Prompt, counterfactual
from bench.train.hidden_states import PassSettings
from bench.train.metrics import Totals
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
    totals: Totals
    """What the run has counted, which an update that is undone must not change."""


def extra_signal(name: str, sources: ExtraSources, setup: Setup) -> Tensor:
    """One of EXTRA_SIGNALS: (B,), or (N,) over the sampled tokens of the batch."""
    match name:
        case "reference_logprob_BT":
            assert setup.reference is not None
            vocabulary = setup.pair.vocabulary
            found_N = sampled_logprob(setup.reference, sources.own, vocabulary, setup.passes)
            return setup.processes.join(found_N)
        case "counterfactual_logprob_BT":
            found_N = counterfactual_logprob(
                setup.student, sources.own, sources.prompts, setup.pair, setup.passes,
                setup.processes,
            )  # fmt: skip
            return setup.processes.join(found_N)
        case "reward_B":
            return reward_B(sources.rollout, sources.prompts, sources.is_correct, setup.pair)
        case "group_B":
            return group_B(sources.rollout)
    return gain(sources, setup)


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
    by_id = {prompt.id: counterfactual(prompt) for prompt in prompts}
    texts = [by_id[prompt_id] for prompt_id in rollout.prompt_id_B]
    encoded = [pair.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return sampled_logprob(student, after(rollout, encoded), pair.vocabulary, settings, processes)


def after(rollout: Rollout, prompt_tokens: Sequence[Sequence[int]]) -> Rollout:
    """The same responses, each after other prompt tokens."""
    device = rollout.sequence_BL.device
    rows = []
    for row, tokens in enumerate(prompt_tokens):
        start = int(rollout.prompt_length_B[row])
        response = rollout.sequence_BL[row, start : start + rollout.length_B[row]]
        rows.append(torch.cat([torch.tensor(tokens, device=device), response]))
    return replace(
        rollout,
        sequence_BL=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        prompt_length_B=torch.tensor([len(tokens) for tokens in prompt_tokens], device=device),
    )
