"""Diagnosis: what the fixed-context diagnostic measures."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from bench.core.fields import Count, CountOrZero, Settings


class Diagnosis(Settings):
    """What the fixed-context diagnostic measures, beside the Experiment that is its update."""

    responses: Count = 300
    """Student responses in the bank of contexts."""
    samples_per_prompt: Count = 1
    """Responses to each held-out prompt; intervals resample prompts, so more prompts say more."""
    positions: Count = 192
    """Positions of a response that enter the bank, at most."""
    k_sweep: tuple[Count, ...] = (4, 8, 16, 32)
    """Sizes K at which compatibility is compared; `k` is the one that selectors are scored with."""
    update: str = "train"
    """train (all tokens, other prompts), one_step (on the bank), or run:RUN[,RUN] (checkpoints)."""
    update_seeds: tuple[CountOrZero, ...] = (0, 1, 2)
    """Seeds of the update; run:RUN has its runs' own."""
    selectors: tuple[str, ...] = ()
    """Further selectors beside the registered ones: `module:function` or `file.py:function`."""
    keeps: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.01, 0.03, 0.05, 0.1, 0.2)
    """Shares of the contexts at which the gain per kept token is compared."""
    draws: Annotated[int, Field(ge=100)] = 1000
    """Draws of prompts with replacement behind each interval."""
    gradients: bool = False
    """Also measure the share of the logits' gradient norm in each score's top contexts."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.responses % self.samples_per_prompt:
            raise ValueError(
                f"responses: {self.responses} is not a multiple of samples_per_prompt "
                f"({self.samples_per_prompt})"
            )
        if self.responses // self.samples_per_prompt < 2:
            raise ValueError("responses: intervals resample prompts, which takes two at least")
        kind, colon, runs = self.update.partition(":")
        is_run = kind == "run" and all(name.strip() for name in runs.split(","))
        if not is_run and (colon or kind not in ("train", "one_step")):
            raise ValueError(
                f"update: {self.update!r} is not accepted: train, one_step or run:RUN[,RUN...]"
            )
        for name in ("update_seeds", "k_sweep", "keeps"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name}: {list(values)} must name one value at least, each once")
        return self
