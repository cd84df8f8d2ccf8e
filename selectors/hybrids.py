"""Rules that join uncertainty with disagreement or teachability by a soft-OR, a + b - ab."""

import torch
from torch import Tensor

from bench import TokenSignals
from bench.selection.registry import NORMS, norm_parameter, selector


@selector("tip", needs=("student_entropy_BT", "reverse_kl_BT"))
def tip(signals: TokenSignals) -> Tensor:
    """Keep tokens where ĥ + δ̂ - ĥδ̂ is largest: the student is unsure, or disagrees, or both.

    h = H(p), δ = KL(p‖q), each scaled by its least and greatest value in the batch.

    Formula: ĥ + δ̂ - ĥδ̂, min-max

    Source: arXiv 2604.14084.
    """
    entropy_BT = signals.norm_minmax(signals.student_entropy_BT)
    disagreement_BT = signals.norm_minmax(signals.reverse_kl_BT)
    return soft_or(entropy_BT, disagreement_BT)


@selector(
    "teachability_entropy",
    needs=("student_entropy_BT", "forward_kl_BT", "teacher_mass_on_student_topk_BT"),
)
def teachability_entropy(signals: TokenSignals) -> Tensor:
    """Keep tokens where Ĥ + N - ĤN is largest, N = norm_q05(D·C): unsure or teachable.

    The documentation of the release says D̂·Ĉ in place of N.

    Formula: Ĥ + N - ĤN, N = norm_q05(D·C)

    Source: arXiv 2605.26844 (its hybrid).
    """
    entropy_BT = signals.norm_q05(signals.student_entropy_BT)
    teachable_BT = signals.norm_q05(signals.forward_kl_BT * signals.teacher_mass_on_student_topk_BT)
    return soft_or(entropy_BT, teachable_BT)


def soft_or(a_BT: Tensor, b_BT: Tensor) -> Tensor:
    """a + b - ab, in [0, 1] for arguments in [0, 1]."""
    return a_BT + b_BT - a_BT * b_BT


@selector("tip_p98", needs=("student_entropy_BT", "reverse_kl_BT"), keep=1.0, abstains=True)
def tip_p98(signals: TokenSignals, share: float = 0.5, clip: float = 0.98) -> Tensor:
    """Keep a share of each response where ĥ + δ̂ - ĥδ̂ is largest, TIP at its own setting.

    Formula: ĥ + δ̂ - ĥδ̂, min-max, h = min(H(p), Q_0.98), δ = KL(p‖q); the ⌊ρn⌋ best of each
    response

    Source: arXiv 2604.14084 (ρ = 0.5).
    """
    clipped_BT = signals.clipped_above(signals.student_entropy_BT, clip)
    disagreement_BT = signals.norm_minmax(signals.reverse_kl_BT)
    score_BT = soft_or(signals.norm_minmax(clipped_BT), disagreement_BT)
    kept_BT = signals.best_of_each(score_BT, share, "down")
    return torch.where(kept_BT, score_BT, -torch.inf)


norm_parameter("minmax", tip)
norm_parameter("q05", teachability_entropy)

AXES = ("student_entropy_BT", "forward_kl_BT")
TEACHABLE = (*AXES, "teacher_mass_on_student_topk_BT")


@selector("tip_q05", needs=AXES, choices={"norm": NORMS})
def tip_q05(signals: TokenSignals, norm: str = "q05") -> Tensor:
    """Keep tokens where Ĥ + D̂ - ĤD̂ is largest: TIP as the teachability paper compares with it.

    Formula: Ĥ + D̂ - ĤD̂, D = KL(q‖p)

    Source: arXiv 2605.26844 (its TIP baseline).

    Deviations: D is the exact one. The clipping ties about 9 % of the tokens at 1.
    """
    entropy_BT = signals.normalised(signals.student_entropy_BT, norm)
    return soft_or(entropy_BT, signals.normalised(signals.forward_kl_BT, norm))


@selector("tip_q3", needs=AXES, choices={"norm": NORMS})
def tip_q3(signals: TokenSignals, norm: str = "minmax") -> Tensor:
    """Keep tokens where the student is sure and the teacher disagrees.

    Formula: (1 - ĥ)·δ̂, δ = KL(q‖p), min-max

    Source: arXiv 2604.14084 (its third quadrant; the soft-OR of `tip` reads KL(p‖q)).
    """
    entropy_BT = signals.normalised(signals.student_entropy_BT, norm)
    return (1 - entropy_BT) * signals.normalised(signals.forward_kl_BT, norm)


@selector("teachability_entropy_docs", needs=TEACHABLE, choices={"norm": NORMS})
def teachability_entropy_docs(signals: TokenSignals, norm: str = "q05") -> Tensor:
    """Keep tokens where Ĥ + D̂Ĉ - ĤD̂Ĉ is largest: unsure or teachable, as the documents say.

    Formula: Ĥ + D̂Ĉ - ĤD̂Ĉ

    Source: arXiv 2605.26844 (documentation of the release; its code is `teachability_entropy`).
    """
    entropy_BT = signals.normalised(signals.student_entropy_BT, norm)
    disagreement_BT = signals.normalised(signals.forward_kl_BT, norm)
    compatibility_BT = signals.normalised(signals.teacher_mass_on_student_topk_BT, norm)
    return soft_or(entropy_BT, disagreement_BT * compatibility_BT)


@selector("q3", needs=TEACHABLE, abstains=True, choices={"norm": NORMS})
def q3(signals: TokenSignals, norm: str = "q05") -> Tensor:
    """Keep teachable tokens that the student is sure of, inside the quadrant of low H and high D.

    Formula: (1 - Ĥ)·N where Ĥ is under its median and D̂ is not, N = norm_q05(D·C); never
    elsewhere

    Source: arXiv 2605.26844.
    """
    entropy_BT = signals.normalised(signals.student_entropy_BT, norm)
    product_BT = signals.forward_kl_BT * signals.teacher_mass_on_student_topk_BT
    score_BT = (1 - entropy_BT) * signals.normalised(product_BT, norm)
    return torch.where(quadrant_of(signals, norm) == 3, score_BT, -torch.inf)


@selector("quadrant", needs=AXES, abstains=True,
          choices={"number": {"1": (), "2": (), "3": (), "4": ()}, "norm": NORMS})  # fmt: skip
def quadrant(signals: TokenSignals, number: str = "1", norm: str = "q05") -> Tensor:
    """Keep random tokens of one quadrant of entropy and disagreement.

    Formula: u inside the quadrant, never elsewhere; by the batch medians of Ĥ and D̂: 1 both high,
    2 high H and low D, 3 low H and high D, 4 both low

    Source: arXiv 2605.26844 (its quadrants).

    Deviations: the source gives an order inside the third only (`q3`); a value at the median is
    high.
    """
    is_inside_BT = quadrant_of(signals, norm) == int(number)
    return torch.where(is_inside_BT, signals.uniform_BT, -torch.inf)


@selector("split_budget", needs=TEACHABLE, choices={"norm": NORMS})
def split_budget(signals: TokenSignals, norm: str = "q05") -> Tensor:
    """Keep half of the budget by entropy and half by teachability where the student is sure.

    Formula: half by Ĥ, half by (1 - Ĥ)·N, N = norm_q05(D·C)

    Source: arXiv 2605.26844.

    Deviations: the two rankings are merged, so that for every budget the kept tokens are equally
    many of the best of both; a token among the best of both counts for both.
    """
    entropy_BT = signals.normalised(signals.student_entropy_BT, norm)
    product_BT = signals.forward_kl_BT * signals.teacher_mass_on_student_topk_BT
    sure_BT = (1 - entropy_BT) * signals.normalised(product_BT, norm)
    ranks = [signals.rank_from_best(x_BT) / 0.5 for x_BT in (entropy_BT, sure_BT)]
    return -torch.minimum(*ranks)


@selector(
    "zscore_mix",
    needs=("student_entropy_BT", "student_logprob_BT"),
    reads_sampled_token=True,
    choices={"direction": {"forward": ("forward_kl_BT",), "reverse": ("reverse_kl_BT",)}},
)
def zscore_mix(
    signals: TokenSignals,
    entropy: float = 1.0,
    surprise: float = 1.0,
    divergence: float = 1.0,
    direction: str = "forward",
) -> Tensor:
    """Keep tokens where entropy, surprise and divergence are high together.

    Formula: w_e z(H(p)) + w_c z(-log p(y)) + w_k z(KL)

    Source: arXiv 2602.01395.

    Deviations: the weights and the direction of KL are not stated in what we read: 1, 1, 1, and
    KL(q‖p).
    """
    kl_BT = signals.forward_kl_BT if direction == "forward" else signals.reverse_kl_BT
    return (
        entropy * signals.zscore(signals.student_entropy_BT)
        + surprise * signals.zscore(-signals.student_logprob_BT)
        + divergence * signals.zscore(kl_BT)
    )


@selector(
    "spot",
    needs=(
        "teacher_entropy_BT",
        "teacher_mass_on_student_topk_BT",
        "student_logprob_BT",
        "teacher_logprob_BT",
    ),
    reads_sampled_token=True,
    choices={"gap": {"absolute": (), "positive": (), "negative": ()}, "norm": NORMS},
)
def spot(signals: TokenSignals, gap: str = "absolute", norm: str = "q05") -> Tensor:
    """Keep tokens where the teacher is unsure, compatible, and far from the student.

    Formula: Ĥ_T · Σ_S q · |Δ|

    Source: arXiv 2608.04419.

    Deviations: which gap and which normalisation is meant is not stated in what we read: |Δ| (or
    the positive or negative part of Δ) and norm_q05.
    """
    gap_BT = signals.teacher_logprob_BT - signals.student_logprob_BT
    gap_BT = {"absolute": gap_BT.abs(), "positive": gap_BT.clamp(min=0)}.get(
        gap, (-gap_BT).clamp(min=0)
    )
    entropy_BT = signals.normalised(signals.teacher_entropy_BT, norm)
    return entropy_BT * signals.teacher_mass_on_student_topk_BT * gap_BT


@selector(
    "ier",
    needs=(
        "student_topk_id_BTK",
        "student_topk_logprob_BTK",
        "teacher_topk_id_BTK",
        "teacher_topk_logprob_BTK",
        "student_logprob_BT",
        "teacher_logprob_BT",
    ),
    reads_sampled_token=True,
)
def ier(signals: TokenSignals, floor: float = -12.0) -> Tensor:
    """Keep tokens whose reward varies much for the noise of its estimated gradient.

    On C = S ∪ T ∪ {y}, a log-probability that is in neither top-K list nor y's counts as -12, then
    both sides are renormalised on C. b* = E_p̂[rL]/E_p̂[L], the mean of r where E_p̂[L] = 0.

    Formula: Var_p̂[r]/max(E_p̂[(r - b*)² L] - Var_p̂[r], 1e-8), r = log q̂ - log p̂ clipped to ±30,
    L = 1/max(p̂, 1e-8) - 1

    Source: arXiv 2609.24432 (BruceSheng1202/IER-OPD; K = 16). Its joins with another rule's rank
    are `soft_or(ier, X, norm='rank')` and `product(ier, X, norm='rank')`.
    """
    student_id, teacher_id = signals.student_topk_id_BTK, signals.teacher_topk_id_BTK
    same_BTKK = teacher_id[..., :, None] == student_id[..., None, :]
    student_BTK = signals.student_topk_logprob_BTK.double()
    on_teacher_BTK = (same_BTKK * student_BTK[..., None, :]).sum(-1)
    on_teacher_BTK = torch.where(same_BTKK.any(-1), on_teacher_BTK, floor)
    # The set as T, then the rest of S, then y where it is in neither.
    token_BT1 = signals.token_BT[..., None]
    ids = torch.cat([teacher_id, student_id, token_BT1], -1)
    is_new_BT1 = ~(ids[..., :-1] == token_BT1).any(-1, keepdim=True)
    in_set = torch.cat([torch.ones_like(same_BTKK[..., 0]), ~same_BTKK.any(-2), is_new_BT1], -1)
    log_p = torch.cat([on_teacher_BTK, student_BTK, torch.zeros_like(student_BTK[..., :1])], -1)
    log_q = torch.full_like(log_p, floor)
    log_q[..., : teacher_id.shape[-1]] = signals.teacher_topk_logprob_BTK.double()
    is_token = ids == token_BT1
    log_p = torch.where(is_token, signals.student_logprob_BT[..., None].double(), log_p)
    log_q = torch.where(is_token, signals.teacher_logprob_BT[..., None].double(), log_q)
    log_p, log_q = (x.masked_fill(~in_set, -torch.inf).log_softmax(-1) for x in (log_p, log_q))
    p = log_p.exp()
    r = torch.where(in_set, log_q - log_p, 0).clamp(-30, 30)
    mean_BT1 = (p * r).sum(-1, keepdim=True)
    variance_BT = (p * (r - mean_BT1).square()).sum(-1)
    noise = p * torch.where(in_set, 1 / p.clamp(min=1e-8) - 1, 0)  # p·L
    total_BT1 = noise.sum(-1, keepdim=True)
    base_BT1 = (noise * r).sum(-1, keepdim=True) / torch.where(total_BT1 == 0, 1, total_BT1)
    base_BT1 = torch.where(total_BT1 == 0, mean_BT1, base_BT1)
    second_BT = (noise * (r - base_BT1).square()).sum(-1)
    return (variance_BT / (second_BT - variance_BT).clamp(min=1e-8)).float()


@selector(
    "pgt",
    needs=(
        "student_topk_id_BTK",
        "student_topk_logprob_BTK",
        "teacher_logprob_on_student_topk_BTK",
        "teacher_topk_id_BTK",
        "teacher_topk_logprob_BTK",
        "student_logprob_on_teacher_topk_BTK",
    ),
)
def pgt(signals: TokenSignals) -> Tensor:
    """Keep tokens where the log-ratio of teacher and student varies most over their candidates.

    The natural-gradient energy of the local update.

    Formula: Var_{p_U}[log q_U - log p_U], both renormalised on U = S ∪ T

    Source: ihbkaiser/jta-opd (its PGT; K = 16, ρ = 0.1).
    """
    teacher_id, student_id = signals.teacher_topk_id_BTK, signals.student_topk_id_BTK
    same_BTKK = teacher_id[..., :, None] == student_id[..., None, :]
    in_set = torch.cat([torch.ones_like(same_BTKK[..., 0]), ~same_BTKK.any(-2)], -1)
    log_p = torch.cat(
        [signals.student_logprob_on_teacher_topk_BTK, signals.student_topk_logprob_BTK], -1
    ).double()
    log_q = torch.cat(
        [signals.teacher_topk_logprob_BTK, signals.teacher_logprob_on_student_topk_BTK], -1
    ).double()
    p = log_p.masked_fill(~in_set, -torch.inf).softmax(-1)
    # A constant of the renormalisation leaves the variance as it is.
    ratio = torch.where(in_set, log_q - log_p, 0)
    mean_BT1 = (p * ratio).sum(-1, keepdim=True)
    return (p * (ratio - mean_BT1).square()).sum(-1).float()


def quadrant_of(signals: TokenSignals, norm: str) -> Tensor:
    """int64 (B, T), 1 to 4: 1 both high, 2 high H, 3 high D, 4 both low; by the batch medians."""
    entropy_BT = signals.normalised(signals.student_entropy_BT, norm)
    disagreement_BT = signals.normalised(signals.forward_kl_BT, norm)
    is_unsure_BT = entropy_BT >= signals.quantile(entropy_BT, 0.5)
    is_far_BT = disagreement_BT >= signals.quantile(disagreement_BT, 0.5)
    return 4 - 2 * is_unsure_BT.long() - is_far_BT.long()
