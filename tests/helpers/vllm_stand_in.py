"""A `vllm` module for tests: the part of vLLM 0.33's API that train/vllm_rollout uses, on CPU.

It is strict where vLLM is lenient: a setting it does not know, work out of turn, or a weight that
is missing or of another shape is an error, and weights do not survive sleep.
"""

import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench.core.randomness import keyed_uniform


class SamplingParams:
    """Fields and defaults of vllm.SamplingParams, with those that were given."""

    DEFAULTS = {  # noqa: RUF012
        "n": 1, "presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0,
        "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": None, "stop": None,
        "stop_token_ids": None, "ignore_eos": False, "max_tokens": 16, "min_tokens": 0,
        "logprobs": None, "detokenize": True, "logit_bias": None,
    }  # fmt: skip

    def __init__(self, **given):
        assert given.keys() <= self.DEFAULTS.keys()
        assert given.get("seed") is None or -(2**63) <= given["seed"] < 2**63
        self.given = given
        vars(self).update({**self.DEFAULTS, **given})


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None


@dataclass
class LLM:
    """A small transformers model with random weights, until it is sent others."""

    model: str
    load_format: str
    skip_tokenizer_init: bool
    generation_config: str
    dtype: str
    max_model_len: int
    max_num_seqs: int
    gpu_memory_utilization: float
    tensor_parallel_size: int
    distributed_executor_backend: str
    enable_sleep_mode: bool
    enable_prefix_caching: bool
    logprobs_mode: str
    seed: int
    calls: list[str] = field(default_factory=lambda: ["create"])

    def __post_init__(self):
        assert self.load_format == "dummy"
        assert self.enable_sleep_mode
        assert self.logprobs_mode == "processed_logprobs"
        assert [path.name for path in Path(self.model).iterdir()] == ["config.json"]
        self.config = AutoConfig.from_pretrained(self.model)
        assert self.max_model_len <= self.config.max_position_embeddings
        torch.manual_seed(123)
        self.network = AutoModelForCausalLM.from_config(self.config).eval()
        self.awake = {"weights", "kv_cache"}
        self.requests = []
        self.is_stale = False
        """Set by a test: weights that arrive are thrown away, the last ones stay."""
        self.finish_reason = None
        """Set by a test: how every response is said to have ended."""
        self.uniform = {}
        """Set by a test: seed of a request -> its uniform numbers."""
        type(self).last = self

    def sleep(self, level=1, mode="abort"):
        assert level == 2
        self.calls.append("sleep")
        self.awake = set()
        self.slept = {n: p.detach().clone() for n, p in self.network.named_parameters()}
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.fill_(torch.nan)

    def wake_up(self, tags=None):
        for tag in tags:
            assert tag in {"weights", "kv_cache"} - self.awake
            self.calls.append(f"wake {tag}")
            self.awake.add(tag)
        return len(self.awake) == 2

    def collective_rpc(self, method, timeout=None, args=(), kwargs=None):
        assert method == "reload_weights"
        assert kwargs is not None and kwargs.keys() == {"weights_iterator"}
        assert self.awake == {"weights"}
        self.calls.append("reload")
        sent = dict(kwargs["weights_iterator"])
        own = dict(self.network.named_parameters())
        assert sent.keys() == own.keys()
        with torch.no_grad():
            for name, parameter in own.items():
                assert parameter.shape == sent[name].shape
                assert not sent[name].requires_grad
                parameter.copy_(self.slept[name] if self.is_stale else sent[name])
        return [None]

    @torch.no_grad()
    def generate(self, prompts, sampling_params, *, use_tqdm=True):
        assert self.awake == {"weights", "kv_cache"}
        assert not use_tqdm and len(prompts) == len(sampling_params)
        self.calls.append("generate")
        self.requests = list(zip(prompts, sampling_params, strict=True))
        answers = [self._answer(p["prompt_token_ids"], s) for p, s in self.requests]
        return [SimpleNamespace(outputs=[answer]) for answer in answers]

    def _answer(self, prompt, params):
        assert (params.n, params.top_p, params.top_k, params.min_p) == (1, 1.0, 0, 0.0)
        stops = set(params.stop_token_ids)
        if not params.ignore_eos:
            stops.add(self.config.eos_token_id)
        shape = (1, params.max_tokens)
        uniform_T = self.uniform.get(
            params.seed, keyed_uniform(params.seed, "stand-in", 0, None, shape)[0]
        )
        tokens, logprobs = [], []
        while len(tokens) < min(params.max_tokens, self.max_model_len - len(prompt)):
            logit_V = self.network(torch.tensor([prompt + tokens])).logits[0, -1].float()
            for token, bias in (params.logit_bias or {}).items():
                logit_V[token] += bias
            logprob_V = (logit_V / params.temperature).log_softmax(-1)
            cumulative_V = logprob_V.double().exp().cumsum(-1)
            target = uniform_T[len(tokens)] * cumulative_V[-1:]
            token = int(torch.searchsorted(cumulative_V, target, right=True))
            tokens.append(token)
            logprobs.append({token: Logprob(float(logprob_V[token]), 1)})
            if token in stops:
                break
        reason = self.finish_reason or ("stop" if tokens[-1] in stops else "length")
        return SimpleNamespace(token_ids=tokens, logprobs=logprobs, finish_reason=reason)


def install(monkeypatch) -> None:
    """`import vllm` finds the stand-in."""
    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
