"""Every check of a pair before a GPU is burnt, from its files to its teacher's own numbers."""

from functools import partial
from pathlib import Path
from typing import Any

from bench.core.config import Experiment, Runtime
from bench.core.errors import BenchError, ConfigError
from bench.core.processes import make_accelerator
from bench.pairs.models import LoadedPair, Tokenizers, load_pair, load_tokenizers
from bench.run.plan import Plan, make_plan
from bench.run.preflight import Check, preflight
from bench.tasks.prompts import PromptSet
from bench.train.hidden_states import PassSettings
from bench.train.rollout import Sampling, sample_rollout
from bench.train.scoring import score_rollout

SAME_KL = 1e-5
SAME_LOGPROB = 1e-3
"""Nats. Float32 passes of other batch shapes differ by about 1e-5."""
ROUGH_LOGPROB = 0.1
"""Nats; bfloat16 passes of other batch shapes differ by a few hundredths."""
PROBE_PROMPTS, PROBE_TOKENS = 4, 16


def check_pair(experiment: Experiment, runtime: Runtime) -> list[Check]:
    """Every check. What cannot be reached because of an earlier failure is left out.

    Raises ConfigError for an experiment that names what is not there.
    """
    plan = make_plan(experiment, runtime)
    checks: list[Check] = [_attempt("data", plan.check_data, "every data file is here")]
    if plan.experiment.lora or runtime.log_with:
        act = partial(plan.check_packages, runtime)
        checks.append(_attempt("packages", act, "the extras asked for are installed"))
    tokenizers = _tokenizers(plan, checks)
    loaded = _load(plan, tokenizers, checks) if tokenizers else None
    if loaded is None or any(check.state == "fail" for check in checks[:1]):
        return checks
    try:
        prompts = plan.prompts.prepare(loaded.tokenizer, loaded.chat)
    except ConfigError as error:
        return [
            *checks,
            Check("prompts", "fail", str(error), "mend the prompt set or its settings"),
        ]
    checks += preflight(plan, loaded, prompts, runtime)
    if not any(check.state == "fail" for check in checks):
        checks += probe(plan, loaded, prompts, runtime)
    return checks


def _attempt(name: str, act: Any, said: str) -> Check:
    try:
        act()
    except BenchError as error:
        text, _, advice = str(error).partition(": put ")
        return Check(name, "fail", text, f"put {advice}" if advice else "see the message")
    return Check(name, "pass", said)


def _tokenizers(plan: Plan, checks: list[Check]) -> Tokenizers | None:
    try:
        tokenizers = load_tokenizers(plan.pair)
    except ConfigError as error:
        checks.append(_load_failure(plan, error))
        return None
    checks.append(check_tokenizers(tokenizers))
    return tokenizers


def _place(plan: Plan, side: str) -> tuple[str, str | None]:
    return getattr(plan.pair, side), getattr(plan.pair, f"{side}_revision")


def _get(place: str, revision: str | None) -> str:
    if Path(place).is_dir():
        return "mend the folder: it needs config.json, *.safetensors and tokenizer.json"
    pin = f" --revision {revision}" if revision else ""
    return f"get it with: hf download {place}{pin}"


def _load(plan: Plan, tokenizers: Tokenizers, checks: list[Check]) -> LoadedPair | None:
    """The pair, or None after saying why not: which model, or what the two do not agree on."""
    try:
        loaded = load_pair(plan.pair, tokenizers, one_model=plan.is_one_model)
    except ConfigError as error:
        checks.append(_load_failure(plan, error))
        return None
    for side, model in (("student", loaded.student), ("teacher", loaded.teacher)):
        count = sum(parameter.numel() for parameter in model.parameters())
        name = type(model).__name__
        checks.append(Check(f"{side} weights", "pass", f"{name}, {count:,} parameters, complete"))
    return loaded


def _load_failure(plan: Plan, error: ConfigError) -> Check:
    text = str(error)
    if "stops on" in text:
        return Check(
            "stop tokens", "fail", text.partition("; ")[0],
            "declare one set for both with --stop-ids, or stop_ids of each side in the pair",
        )  # fmt: skip
    if "logits for a tokenizer" in text:
        return Check("vocabulary", "fail", text, "use the tokenizer the model was trained with")
    if "tokenizers differ" in text:
        text = text.partition("; ")[0]
        return Check("tokenizers", "fail", text, "choose a teacher and student of one tokenizer")
    for side in ("student", "teacher"):
        place, revision = _place(plan, side)
        if repr(place) in text:
            part = "tokenizer" if text.startswith("tokenizer") else "weights"
            return Check(f"{side} {part}", "fail", text, _get(place, revision))
    return Check("models", "fail", text, "see the message")


def check_tokenizers(tokenizers: Tokenizers) -> Check:
    """Equal ids and merges; added tokens that differ leave the vocabulary."""
    student, teacher = tokenizers.student, tokenizers.teacher
    vocabulary = tokenizers.vocabulary
    if len(student) == len(teacher) and not vocabulary.excluded_ids:
        return Check(
            "tokenizers", "pass", f"ids and merges equal, {len(student):,} ids on each side"
        )
    out = len(vocabulary.excluded_ids) + max(len(student), len(teacher)) - vocabulary.size
    return Check(
        "tokenizers", "warn",
        f"base ids and merges equal; {out} added tokens differ and leave both vocabularies",
        "nothing, unless the responses need those tokens",
    )  # fmt: skip


def probe(plan: Plan, loaded: LoadedPair, prompts: PromptSet, runtime: Runtime) -> list[Check]:
    """The checks that run the teacher: KL to itself, and the same numbers in every batch."""
    accelerator = make_accelerator(plan.experiment, runtime)
    teacher = loaded.teacher.to(accelerator.device)  # type: ignore[arg-type]
    count = min(PROBE_PROMPTS, plan.experiment.prompts_per_step)
    with accelerator.autocast():
        rollout = sample_rollout(
            teacher, loaded.tokenizer, loaded.vocabulary,
            Sampling(
                prompts.draw(0, count, 0), samples=2,
                max_new_tokens=min(PROBE_TOKENS, plan.experiment.max_new_tokens), temperature=1.0,
                stop_ids=loaded.student_stop_ids, mask_stop=True, seed=0, step=0,
            ),
            batch=2 * count,
        )  # fmt: skip
        names = ("reverse_kl_BT", "forward_kl_BT", "teacher_logprob_BT")
        together, alone = (
            score_rollout(
                teacher, teacher, rollout, loaded.vocabulary, names, plan.experiment.k,
                PassSettings(micro, runtime.logit_chunk),
            ).values
            for micro in (2 * count, 1)
        )  # fmt: skip
    kl = max(float(together[name].abs().max()) for name in names[:2])
    sampled_N = rollout.student_logprob_BT[rollout.mask_BT]
    gaps = {
        "alone and in a batch": together["teacher_logprob_BT"] - alone["teacher_logprob_BT"],
        "sampled with a cache and scored": together["teacher_logprob_BT"] - sampled_N,
    }
    return [_check_kl(kl), _check_gaps({how: float(gap.abs().max()) for how, gap in gaps.items()})]


def _check_kl(kl: float) -> Check:
    said = f"KL(teacher‖teacher) is at most {kl:.1e} nats"
    if not kl <= SAME_KL:  # NaN too
        advice = "look for dropout, a broken kernel or weights that are not finite"
        return Check("teacher against itself", "fail", said, advice)
    return Check("teacher against itself", "pass", said)


def _check_gaps(gaps: dict[str, float]) -> Check:
    said = "log-probabilities differ by " + ", ".join(
        f"{gap:.1e} nats {how}" for how, gap in gaps.items()
    )
    worst = max(gaps.values(), key=lambda gap: (gap != gap, gap))
    if worst <= SAME_LOGPROB:
        return Check("teacher determinism", "pass", said)
    if worst <= ROUGH_LOGPROB:
        advice = "use --dtype float32 where scores near the cut matter"
        return Check("teacher determinism", "warn", said, advice)
    advice = "look at position ids, padding and the attention implementation"
    return Check("teacher determinism", "fail", said, advice)
