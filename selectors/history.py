"""Rules that carry something from step to step: `rule(signals, state) -> (score_BT, state)`."""

from math import log

import torch
from torch import Tensor

from bench import TokenSignals
from bench.selection.registry import selector

LOSSES: dict[str, tuple[str, ...]] = {
    "reverse_kl": ("reverse_kl_BT",),
    "forward_kl": ("forward_kl_BT",),
}


@selector(
    "adakd",
    needs=("hellinger_BT",),
    choices={"loss": LOSSES},
    state={"ema": None, "reference": None, "keep": 1.0},
    sets_keep=True,
)
def adakd(
    signals: TokenSignals,
    state: dict,
    decay: float = 0.99,
    move: float = 0.05,
    start: float = 1.0,
    least: float = 0.1,
    loss: str = "reverse_kl",
) -> tuple[Tensor, dict]:
    """Keep the tokens of largest Hellinger distance, a share of them that follows the loss.

    Formula: (1/√2) ‖√p - √q‖; keep r × 0.95 when the EMA (0.99) of the loss has fallen by 5 %, r ×
    1.05 when it has risen by 5 %, r in [0.1, 1]

    Source: arXiv 2510.11615 (AdaKD: loss-driven adaptive token focusing).

    Deviations: that a falling loss lowers r, that the mark is then set anew, and r = 1 at the start
    are our reading. The loss is the mean divergence over all sampled tokens. Its token-wise
    temperatures are an objective, which is not part of a rule.
    """
    divergence_BT = signals.reverse_kl_BT if loss == "reverse_kl" else signals.forward_kl_BT
    tokens = max(1, int(signals.mask_BT.sum()))
    now = float(divergence_BT[signals.mask_BT].double().sum()) / tokens
    first = state["ema"] is None
    ema = now if first else decay * state["ema"] + (1 - decay) * now
    reference, keep = (ema, start) if first else (state["reference"], state["keep"])
    if ema < reference * (1 - move):
        reference, keep = ema, max(least, keep * (1 - move))
    elif ema > reference * (1 + move):
        reference, keep = ema, min(1.0, keep * (1 + move))
    return signals.hellinger_BT, {"ema": ema, "reference": reference, "keep": keep}


@selector(
    "reopold",
    needs=("student_logprob_BT", "teacher_logprob_BT", "student_entropy_BT"),
    keep=1.0,
    abstains=True,
    reads_sampled_token=True,
    state={"step": 0},
)
def reopold(
    signals: TokenSignals,
    state: dict,
    floor: float = 0.1,
    share: float = 0.2,
    switch_step: int = 30,
) -> tuple[Tensor, dict]:
    """Keep tokens that the teacher does not reject, early; the student's unsure ones, later.

    Formula: before the switch Δ ≥ log(λ/(1-λ)), λ = 0.1; from it on H(p) ≥ Q_{1-β}, β = 0.2

    Source: arXiv 2603.11137.

    Deviations: the step of the switch is not stated in what we read; 30 is half of a default run.
    """
    gap_BT = signals.teacher_logprob_BT - signals.student_logprob_BT
    entropy_BT = signals.student_entropy_BT
    is_early = state["step"] < switch_step
    kept_BT = gap_BT >= log(floor / (1 - floor))
    later_BT = entropy_BT >= signals.quantile(entropy_BT, 1 - share)
    score_BT = torch.where(kept_BT if is_early else later_BT, 1.0, -torch.inf)
    return score_BT, {"step": state["step"] + 1}


@selector(
    "rock",
    choices={"loss": LOSSES},
    keep=1.0,
    abstains=True,
    reads_sampled_token=True,
    state={
        "id_G": torch.zeros(0, dtype=torch.int64),
        "loss_G": torch.zeros(0, dtype=torch.float64),
        "count_G": torch.zeros(0, dtype=torch.int64),
    },
)
def rock(
    signals: TokenSignals, state: dict, share: float = 0.18, loss: str = "reverse_kl"
) -> tuple[Tensor, dict]:
    """Keep all tokens but those of the types that have cost most loss so far.

    Formula: drop the token types of highest mean loss × frequency, as many as make up at most 18 %
    of all tokens sampled so far

    Source: arXiv 2605.09253 (rock tokens, up to 18 % of the tokens).

    Deviations: the history is that of this run, this batch included, since its first step.
    """
    divergence_BT = signals.reverse_kl_BT if loss == "reverse_kl" else signals.forward_kl_BT
    token_N, loss_N = signals.token_BT[signals.mask_BT], divergence_BT[signals.mask_BT].double()
    seen = {name: value.to(token_N.device) for name, value in state.items()}
    id_G, group_N = torch.cat([seen["id_G"], token_N]).unique(return_inverse=True)
    loss_G = torch.zeros(id_G.shape, dtype=torch.float64, device=id_G.device)
    loss_G.index_add_(0, group_N, torch.cat([seen["loss_G"], loss_N]))
    count_G = torch.zeros_like(id_G)
    count_G.index_add_(0, group_N, torch.cat([seen["count_G"], torch.ones_like(token_N)]))
    order_G = loss_G.argsort(descending=True, stable=True)
    is_rock_G = torch.zeros_like(id_G, dtype=torch.bool)
    is_rock_G[order_G] = count_G[order_G].cumsum(0) <= share * count_G.sum()
    is_rock_BT = torch.isin(signals.token_BT, id_G[is_rock_G])
    return torch.where(is_rock_BT, -torch.inf, 1.0), {
        "id_G": id_G.cpu(),
        "loss_G": loss_G.cpu(),
        "count_G": count_G.cpu(),
    }
