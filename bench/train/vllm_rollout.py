"""student + prompts -> Rollout through vLLM: the same distribution as `rollout`, for GPUs.

Written against the API of vLLM 0.33 and tested on a stand-in for it (vllm_stand_in.py): it has
never run on a GPU. One engine in each process, so that the training model's weights are handed over
in memory; where several processes train, each samples its own rows (`external_launcher`). The
engine knows the shared vocabulary alone (its embedding is cut to it), and between rollouts it
sleeps, weights and cache freed. Random numbers are vLLM's own, from one keyed seed per response:
they are not those of bench.train.rollout.
"""

import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.util import find_spec
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bench.core.config import Dtype
from bench.core.decode import Sampled
from bench.core.errors import BenchError, ConfigError
from bench.core.processes import ALONE, Processes, inner
from bench.core.randomness import hash64
from bench.core.sampling import EXCLUDED_LOGIT, Vocabulary
from bench.train.hidden_states import PassSettings
from bench.train.rollout import Requests, Rollout, Sampling, assemble
from bench.train.scoring import sampled_logprob

TEMPERATURES = (0.01, 2.0)
"""vLLM refuses what is above, and silently raises what is below to 0.01."""
MOST_EXCLUDED_IDS = 1024
"""Biases that one vLLM request may carry."""
CHECKED_RESPONSES = 8
"""Responses whose log-probabilities the training engine computes again."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest mean absolute difference of a sampled token's log-probability, nats, between vLLM's
kernels and the training engine's: several times what rounding gives."""


@dataclass(frozen=True)
class VllmSettings:
    """How the engine of one process is built."""

    dtype: Dtype
    max_length: int
    """Tokens of the longest prompt and response together."""
    batch: int
    """Responses sampled at once."""
    memory: float
    """Share of the device's memory while awake: weights, activations, cache."""
    check_every: int
    """Steps from one check of the weights to the next; the first rollout is always checked."""


def require_vllm() -> None:
    """Raises ConfigError where vLLM is not installed."""
    if find_spec("vllm") is None:
        raise ConfigError('rollout: vllm is not installed: pip install "opd-bench[vllm]"')


class VllmSampler:
    """A sleeping vLLM engine with the student's architecture, and no weights of its own."""

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Vocabulary,
        settings: VllmSettings,
        processes: Processes = ALONE,
    ):
        require_vllm()
        if len(vocabulary.excluded_ids) > MOST_EXCLUDED_IDS:
            raise ConfigError(
                f"rollout: vllm can exclude {MOST_EXCLUDED_IDS} ids; the tokenizers of this pair "
                f"differ in {len(vocabulary.excluded_ids)}"
            )
        # Before the import: an engine in a process of its own could not be handed tensors.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        import vllm

        self.vllm = vllm
        self.vocabulary, self.settings, self.processes = vocabulary, settings, processes
        self.max_length = min(settings.max_length, model.config.max_position_embeddings)
        self.is_checked = False
        self.difference: float | None = None
        """Mean absolute difference of log-probabilities at the last check, nats."""
        config = deepcopy(model.config)
        config.vocab_size = vocabulary.size
        folder = mkdtemp(prefix="opd-bench-vllm-")
        finalize(self, rmtree, folder, ignore_errors=True)
        config.save_pretrained(folder)
        self.engine = vllm.LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            generation_config="vllm",
            dtype=settings.dtype,
            max_model_len=self.max_length,
            max_num_seqs=settings.batch,
            gpu_memory_utilization=settings.memory,
            tensor_parallel_size=1,
            distributed_executor_backend="external_launcher" if processes.size > 1 else "uni",
            enable_sleep_mode=True,
            enable_prefix_caching=False,  # a cache of prompts would outlive the weights it is from
            logprobs_mode="processed_logprobs",
            seed=0,
        )
        self.engine.sleep(level=2)

    def sample(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling,
        passes: PassSettings,
    ) -> Rollout:
        """The responses of `model` that are asked for, as `sample_rollout` gives them.

        Raises ConfigError for a temperature or a length that vLLM would change silently, BenchError
        when the check finds other log-probabilities than the training engine's.
        """
        requests = sampling.requests(tokenizer)
        self._refuse(sampling, requests)
        parameters = [self._parameters(sampling, key) for key in requests.keys]
        student = inner(model)
        self._wake(student)
        outputs = self.engine.generate(
            [{"prompt_token_ids": ids} for ids in requests.prompt_tokens],
            parameters,
            use_tqdm=False,
        )
        self.engine.sleep(level=2)
        responses = [
            _response(output.outputs[0], sampling.max_new_tokens, student.device)
            for output in outputs
        ]
        rollout = assemble(requests, responses, sampling.stop_ids, sampling.mask_stop)
        if not self.is_checked or sampling.step % self.settings.check_every == 0:
            self.difference = self._check(model, requests, rollout, sampling, passes)
            self.is_checked = True
        return rollout

    def _refuse(self, sampling: Sampling, requests: Requests) -> None:
        """Raise ConfigError for what vLLM would change silently."""
        low, high = TEMPERATURES
        if not low <= sampling.temperature <= high:
            raise ConfigError(
                f"temperature: {sampling.temperature} is not accepted by vllm: {low} to {high}"
            )
        needed = max(map(len, requests.prompt_tokens)) + sampling.max_new_tokens
        if needed > self.max_length:
            raise ConfigError(
                f"rollout: vllm: a prompt and its response need {needed} tokens, the engine was "
                f"built for {self.max_length} (max_prompt_tokens, max_new_tokens, the model's own)"
            )

    def _parameters(self, sampling: Sampling, key: str) -> Any:
        """Every decoding setting, explicitly."""
        return self.vllm.SamplingParams(
            n=1,
            temperature=sampling.temperature,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            repetition_penalty=1.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            seed=request_seed(sampling.seed, sampling.step, key),
            # With the model's own end token ignored, the stop set is exactly the pair's.
            ignore_eos=True,
            stop_token_ids=list(sampling.stop_ids),
            max_tokens=sampling.max_new_tokens,
            min_tokens=0,
            logit_bias=dict.fromkeys(self.vocabulary.excluded_ids, EXCLUDED_LOGIT) or None,
            logprobs=0,
            detokenize=False,
        )

    def _wake(self, model: PreTrainedModel) -> None:
        """Weights first, the cache once they are in: both never need room beside a second copy."""
        self.engine.wake_up(tags=["weights"])
        self.engine.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": shared_weights(model, self.vocabulary)}
        )
        self.engine.wake_up(tags=["kv_cache"])

    def _check(
        self,
        model: nn.Module,
        requests: Requests,
        rollout: Rollout,
        sampling: Sampling,
        passes: PassSettings,
    ) -> float:
        """Mean |log p by vLLM - log p by the training engine| over a sample of the responses, nats;
        of the process where it is largest.

        Weights that are one small update old differ by less than kernels do, and pass; they are
        caught when they have fallen so far behind that it shows in the probabilities.
        """
        keys = [hash64(sampling.seed, "check", sampling.step, key) for key in requests.keys]
        picked = sorted(range(len(keys)), key=keys.__getitem__)[:CHECKED_RESPONSES]
        checked_BT = torch.zeros_like(rollout.mask_BT)
        for row in picked:
            checked_BT[row, : rollout.length_B[row]] = True
        ours_N = sampled_logprob(
            model, replace(rollout, mask_BT=checked_BT), self.vocabulary, passes, self.processes,
            sampling.temperature,
        )  # fmt: skip
        own = float((ours_N - rollout.student_logprob_BT[checked_BT]).abs().mean())
        difference = max(self.processes.join_objects([own]), key=lambda x: (x != x, x))
        tolerance = TOLERANCE[self.settings.dtype]
        if not difference <= tolerance:
            raise BenchError(
                f"rollout: vllm's log-probabilities of {ours_N.numel()} sampled tokens differ from "
                f"the training engine's by {difference:.3g} nats in the mean (at most "
                f"{tolerance:g} in {self.settings.dtype}): its weights are stale, or its precision "
                "differs"
            )
        return difference


def request_seed(seed: int, step: int, key: str) -> int:
    """What a response's random numbers follow from: neither its batch nor its process."""
    return hash64(seed, "rollout", step, key) & (2**63 - 1)  # vLLM takes -1 for none


def shared_weights(model: PreTrainedModel, vocabulary: Vocabulary) -> Iterator[tuple[str, Tensor]]:
    """(name in the checkpoint, whole weight), embedding and head cut to the shared vocabulary, and
    adapters added to the weights that they adapt.

    Every process has to run through all of them: a sharded weight is gathered from all.
    """
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    cut = {id(module.weight) for module in ends}  # type: ignore[union-attr]
    adapted: dict[int, Any] = {
        id(module.base_layer.weight): module  # type: ignore[union-attr]
        for module in model.modules()
        if hasattr(module, "get_delta_weight")
    }
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        weight = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        weight = weight.detach()
        if (module := adapted.get(id(parameter))) is not None:
            weight = weight + module.get_delta_weight("default").detach()
        name = name.replace(".base_layer.", ".")
        yield name, weight[: vocabulary.size] if id(parameter) in cut else weight


def _response(output: Any, max_new_tokens: int, device: torch.device) -> Sampled:
    """A finished completion. Raises BenchError for one that ended for a reason of vLLM's own."""
    tokens = list(output.token_ids)
    is_whole = output.finish_reason == "stop" or len(tokens) == max_new_tokens
    if output.finish_reason not in ("stop", "length") or not is_whole:
        raise BenchError(
            f"rollout: vllm ended a response after {len(tokens)} of {max_new_tokens} tokens: "
            f"{output.finish_reason}"
        )
    logprobs = [at[token].logprob for at, token in zip(output.logprobs, tokens, strict=True)]
    return Sampled(
        torch.tensor(tokens, device=device),
        torch.tensor(logprobs, dtype=torch.float32, device=device),
    )
