"""What a rule may ask for beyond the two models' logits, computed only when it does."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from bench.core.errors import ConfigError
from bench.core.processes import ALONE, Processes
from bench.pairs.adapters import weight_sharing_copy
from bench.pairs.models import LoadedPair, load_model, load_tokenizer, shared_vocabulary
from bench.tasks.prompts import Prompt, PromptSet, counterfactual
from bench.train.hidden_states import PassSettings
from bench.train.rollout import Rollout
from bench.train.scoring import sampled_logprob


def load_reference(name: str, pair: LoadedPair, *, student_is_frozen: bool = False):
    """The third model: the student as it is now, or the one named. Raises ConfigError.

    Its tokenizer must have the pair's vocabulary. A student whose weights stay (it gets adapters)
    shares them.
    """
    if name == "student":
        copied = weight_sharing_copy if student_is_frozen else deepcopy
        reference = copied(pair.student)
    else:
        reference = load_model(name)
        shared = shared_vocabulary(f"reference {name}", pair.tokenizer, load_tokenizer(name))
        if min(shared.size, reference.config.vocab_size) < pair.vocabulary.size:
            raise ConfigError(
                f"reference: {name!r} has fewer token ids than the pair's {pair.vocabulary.size}"
            )
    return reference.requires_grad_(False).eval()


def reward_B(
    rollout: Rollout, prompts: Sequence[Prompt], prompt_set: PromptSet, pair: LoadedPair
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
        found.append(float(prompt_set.is_correct(by_id[prompt_id], str(text))))
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
