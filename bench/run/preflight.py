"""Checks of a loaded pair that need no forward pass: `bench run` makes them before it trains."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import GenerationConfig

from bench.core.config import Runtime
from bench.core.errors import ConfigError
from bench.pairs.agreement import own_stop_ids, stop_ids
from bench.pairs.models import LoadedPair
from bench.pairs.pair import settings_of
from bench.run.memory import device_memory, memory_advice, needs, readable, shape_of
from bench.run.plan import Plan, of_pair_text, setting_text
from bench.selection.registry import get_selector
from bench.tasks.prompt_file import FilePrompts
from bench.tasks.prompts import PromptSet
from bench.train.batch_objectives import context_needs

State = Literal["pass", "warn", "fail"]

LEAKS = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "length_penalty",
    "no_repeat_ngram_size", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id",
    "forced_eos_token_id", "num_beams", "max_new_tokens", "min_new_tokens", "max_length",
)  # fmt: skip
"""Defaults of a model's generation_config that change what is sampled."""
SHORT_FOR_THINKING = 4096
"""Tokens under which most thoughts are cut off (published protocols allow 7,000 to 16,000)."""

WATCHED = ("learning_rate", "max_new_tokens", "eval_max_new_tokens", "dtype")
"""Settings that make another experiment of it where they do not fit the models."""
FAR = 8.0
"""A number that many times its pair's is told; learning rates of sweeps span about as much."""


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    state: State
    said: str
    advice: str = ""
    """What to do; empty where nothing is to be done."""


def refuse_failures(checks: Sequence[Check]) -> None:
    """Raise ConfigError that names every failed check and what to do."""
    failed = [check for check in checks if check.state == "fail"]
    if failed:
        lines = [f"{check.name}: {check.said}; {check.advice}" for check in failed]
        raise ConfigError("refused by bench doctor: " + " | ".join(lines))


def preflight(plan: Plan, loaded: LoadedPair, prompts: PromptSet, runtime: Runtime) -> list[Check]:
    """Every check that needs no forward pass."""
    longest = longest_prompt(plan, loaded, prompts)
    return [
        check_vocabulary(loaded),
        check_stops(plan, loaded),
        check_template(plan, loaded),
        check_thinking(plan, loaded),
        check_generation_defaults(loaded),
        check_embeddings(loaded),
        check_settings(plan),
        check_lengths(plan, loaded, prompts, longest),
        *check_answers(plan, prompts, runtime),
        *check_resources(plan, loaded, longest, runtime),
    ]


def check_vocabulary(loaded: LoadedPair) -> Check:
    """The cut that both softmaxes run over."""
    sizes = (loaded.student.config.vocab_size, loaded.teacher.config.vocab_size)
    excluded = len(loaded.vocabulary.excluded_ids)
    said = (
        f"student {sizes[0]:,} logits, teacher {sizes[1]:,}, tokenizer {len(loaded.tokenizer):,} "
        f"ids: both cut to the first {loaded.vocabulary.size:,}"
        + (f", {excluded} of them left out" if excluded else "")
    )
    return Check("vocabulary", "pass", said)


def check_stops(plan: Plan, loaded: LoadedPair) -> Check:
    """Student, teacher, template and generation config end a response on the same tokens."""
    tokenizer, stops = loaded.tokenizer, set(loaded.student_stop_ids)
    sampled = stops - set(loaded.vocabulary.excluded_ids)
    sampled = {stop for stop in sampled if stop < loaded.vocabulary.size}
    named = ", ".join(f"{tokenizer.convert_ids_to_tokens(stop)} ({stop})" for stop in sorted(stops))
    if not sampled:
        return Check(
            "stop tokens", "fail",
            f"no stop of the student ({named}) is in the shared vocabulary: no response could end",
            "declare, with --stop-ids, a token that both tokenizers have",
        )  # fmt: skip
    end = end_of_turn(loaded) if loaded.chat.template else None
    if end is not None and end not in stops:
        return Check(
            "stop tokens", "fail",
            f"the template ends a turn with {tokenizer.convert_ids_to_tokens(end)} ({end}), and "
            f"only {named} ends a response",
            f"add it: --stop-ids {' --stop-ids '.join(map(str, sorted({*stops, end})))}",
        )  # fmt: skip
    if not loaded.stops_agree:
        return Check(
            "stop tokens", "warn",
            f"the student stops on {loaded.student_stop_ids}, the teacher on "
            f"{loaded.teacher_stop_ids}, as the pair declares: the stop position leaves the mask",
            "nothing, if that is meant; else declare one set with --stop-ids",
        )  # fmt: skip
    for side, model in (("student", loaded.student), ("teacher", loaded.teacher)):
        found = set(stop_ids(model, tokenizer))
        if not found <= stops:
            return Check(
                "stop tokens", "warn",
                f"the {side}'s files also stop on {sorted(found - stops)}, the pair only on "
                f"{named}",
                "nothing, if that is meant; else add them with --stop-ids",
            )  # fmt: skip
    said = f"both sides stop on {named}"
    if disagreeing := _several_stops(loaded):
        said += f" (their files name several: {'; '.join(disagreeing)})"
    return Check("stop tokens", "pass", said)


def _several_stops(loaded: LoadedPair) -> list[str]:
    """The sides whose own files differ in the stop tokens that they name, and what each names."""
    named_by = {
        side: own_stop_ids(model, loaded.tokenizer)
        for side, model in (("student", loaded.student), ("teacher", loaded.teacher))
    }
    return [
        f"{side}: {', '.join(f'{where} {sorted(ids)}' for where, ids in found.items())}"
        for side, found in named_by.items()
        if len(set(found.values())) > 1
    ]


def end_of_turn(loaded: LoadedPair) -> int | None:
    """The token that the template writes after an assistant's words; None if it writes none."""
    marker = "opdbenchmarker"
    messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": marker}]
    try:
        text = str(loaded.tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:  # a template may refuse an assistant's turn at the end
        return None
    after = text.rpartition(marker)[2]
    ids = loaded.tokenizer(after, add_special_tokens=False)["input_ids"]
    return ids[0] if ids and ids[0] in loaded.tokenizer.all_special_ids else None


def check_template(plan: Plan, loaded: LoadedPair) -> Check:
    """One text for both sides, made of tokens that mean the same to both."""
    if not loaded.chat.template:
        said = "problems are plain text"
        if loaded.tokenizer.chat_template and plan.pair.chat != "plain":
            said += ", though the tokenizer has a template"
        return Check("chat template", "pass", said)
    try:
        text = loaded.chat.text(loaded.tokenizer, "1 + 1?")
    except ConfigError as error:
        return Check("chat template", "fail", str(error), "mend the template, or use --chat plain")
    ids = set(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
    foreign = sorted(ids & set(loaded.vocabulary.excluded_ids))
    if foreign:
        return Check(
            "chat template", "fail",
            f"the template writes ids {foreign}, which the teacher's tokenizer reads otherwise",
            "use --chat plain",
        )  # fmt: skip
    try:
        other = loaded.chat.text(loaded.teacher_tokenizer, "1 + 1?")
    except ConfigError:
        other = None
    if other != text:
        return Check(
            "chat template", "warn",
            "the teacher's own template is another; both sides are fed the student's",
            "nothing, if the teacher knows this form; `bench eval` of the teacher will show",
        )  # fmt: skip
    return Check("chat template", "pass", f"the same on both sides: {text[:60]!r}…")


def check_thinking(plan: Plan, loaded: LoadedPair) -> Check:
    """The mode is said, heeded by the template, and has room."""
    chat, asked = loaded.chat, {True: "on", False: "off", None: "not set"}[loaded.chat.thinking]
    if not chat.template:
        if chat.thinking is None:
            return Check("thinking mode", "pass", "none: plain text")
        advice = "use --chat template, or leave --thinking out"
        return Check("thinking mode", "warn", f"{asked}, but plain text has no mode", advice)
    try:
        heeds = chat.heeds_thinking(loaded.tokenizer)
    except ConfigError:
        return Check("thinking mode", "warn", "not known: the template fails", "mend the template")
    if chat.thinking is None and heeds:
        return Check(
            "thinking mode", "warn", "not set, and the template has one: it takes its own default",
            "say --thinking on or --thinking off",
        )  # fmt: skip
    if chat.thinking is not None and not heeds:
        return Check(
            "thinking mode", "warn", f"{asked}, and the template ignores it",
            "leave --thinking out",
        )  # fmt: skip
    cap = plan.experiment.max_new_tokens
    if chat.thinking and cap < SHORT_FOR_THINKING:
        return Check(
            "thinking mode", "warn", f"on, with room for {cap:,} tokens: most thoughts are cut off",
            "raise --max-new-tokens, or say --thinking off",
        )  # fmt: skip
    return Check("thinking mode", "pass", f"{asked}, in training and in evaluation")


def check_generation_defaults(loaded: LoadedPair) -> Check:
    """What a model's generation_config would do to sampling where nobody hides it."""
    neutral = GenerationConfig()
    found = []
    for side, model in (("student", loaded.student), ("teacher", loaded.teacher)):
        own = model.generation_config
        changed = [
            f"{name} {getattr(own, name)}"
            for name in LEAKS
            if own is not None
            and getattr(own, name, None) not in (None, getattr(neutral, name, None))
        ]
        found += [f"{side}: {', '.join(changed)}"] if changed else []
    if not found:
        return Check("generation defaults", "pass", "neutral on both sides")
    return Check(
        "generation defaults", "warn", "; ".join(found) + " (hidden here, in rollouts and scoring)",
        "pass every sampling setting explicitly wherever else you use these models",
    )  # fmt: skip


def check_embeddings(loaded: LoadedPair) -> Check:
    """Tied heads are tied in fact, untied ones are two tensors."""
    said, wrong = [], []
    for side, model in (("student", loaded.student), ("teacher", loaded.teacher)):
        declared = bool(model.config.tie_word_embeddings)
        head = model.get_output_embeddings()
        is_tied = head is not None and head.weight is model.get_input_embeddings().weight
        said.append(f"{side} {'tied' if is_tied else 'untied'}")
        if declared != is_tied:
            wrong.append(f"the {side} is {'un' * (not is_tied)}tied and its config says otherwise")
    if wrong:
        advice = "mend tie_word_embeddings in config.json to what the weights are"
        return Check("embeddings", "fail", "; ".join(wrong), advice)
    return Check("embeddings", "pass", ", ".join(said))


def check_answers(plan: Plan, prompts: PromptSet, runtime: Runtime) -> Iterator[Check]:
    """Of a file of prompts: a rule that asks whether a response is right needs a gold answer."""
    if not isinstance(prompts, FilePrompts):
        return
    report = prompts.report
    refill = plan.experiment.refill
    filled = () if refill == "own" else get_selector(refill).needs
    own = context_needs(plan.experiment.objective)
    needs_gold = "reward_B" in (*plan.selector.needs, *filled, *own, *runtime.log_signals)
    said = f"{report.unanswered:,} of {report.kept:,} problems have no gold answer"
    if report.unanswered and needs_gold:
        yield Check(
            "gold answers", "fail",
            f"{said}, and {plan.selector.name!r}, the objective or the log reads reward_B",
            "name the column with --columns answer=NAME, or leave those rows out",
        )  # fmt: skip
    elif report.unanswered:
        yield Check("gold answers", "warn", said, "nothing, for rules that ask for none")
    else:
        yield Check("gold answers", "pass", f"all {report.kept:,} problems have one")


def longest_prompt(plan: Plan, loaded: LoadedPair, prompts: PromptSet) -> int:
    """Tokens of the longest prompt; of a generated set, of its first step."""
    if isinstance(prompts, FilePrompts):
        return min(prompts.report.tokens["longest"], prompts.report.longest_allowed)
    drawn = prompts.draw(0, plan.experiment.prompts_per_step, plan.experiment.seed)
    ids = loaded.tokenizer([prompt.text for prompt in drawn], add_special_tokens=False)["input_ids"]
    return max(map(len, ids))


def check_settings(plan: Plan) -> Check:
    """Which settings are the pair's, and whether one that was given is far from the pair's."""
    pair, experiment = plan.pair, plan.experiment
    far = [
        f"{name} {setting_text(own)} (the pair's: {setting_text(value)})"
        for name, value in settings_of(experiment).items()
        if name in WATCHED and is_far(own := getattr(experiment, name), value)
    ]
    if far:
        return Check(
            "settings", "warn", f"far from those of the pair {pair.name}: {', '.join(far)}",
            "nothing, if that is meant; else leave the flags out",
        )  # fmt: skip
    told = of_pair_text(plan.of_pair)
    return Check("settings", "pass", f"of the pair: {told}" if told else "as given, or the default")


def is_far(own: Any, pairs: Any) -> bool:
    """Whether a setting is another than the pair's, or a number FAR times as large or as small."""
    if type(own) in (int, float) and type(pairs) in (int, float) and own > 0 and pairs > 0:
        return not 1 / FAR < own / pairs < FAR
    return own != pairs


def check_lengths(plan: Plan, loaded: LoadedPair, prompts: PromptSet, longest: int) -> Check:
    """Prompts under their cap, and prompt plus response within the positions of both models."""
    experiment = plan.experiment
    sides = {"student": loaded.student, "teacher": loaded.teacher}
    side, positions = min(
        ((side, model.config.max_position_embeddings) for side, model in sides.items()),
        key=lambda found: found[1],
    )
    for what, cap, flag in (
        ("training", experiment.max_new_tokens, "--max-new-tokens"),
        ("evaluation", experiment.eval_max_new_tokens or 0, "--eval-max-new-tokens"),
    ):
        if longest + cap > positions:
            return Check(
                "prompt lengths", "fail",
                f"a prompt of {longest:,} tokens and {cap:,} more in {what} exceed the {side}'s "
                f"{positions:,} positions",
                f"lower {flag} or --max-prompt-tokens",
            )  # fmt: skip
    if isinstance(prompts, FilePrompts):
        report = prompts.report
        share = report.too_long / max(1, report.too_long + report.kept)
        spread = ", ".join(f"{name} {value:,}" for name, value in report.tokens.items())
        said = f"{spread} tokens; {share:.1%} over the cap of {report.longest_allowed:,}"
        if share > 0.05:
            return Check("prompt lengths", "warn", said, "raise --max-prompt-tokens")
        return Check("prompt lengths", "pass", said)
    return Check("prompt lengths", "pass", f"longest {longest:,} of {positions:,} positions")


def check_resources(
    plan: Plan, loaded: LoadedPair, longest: int, runtime: Runtime
) -> Iterator[Check]:
    """Memory by phase against the device, and disk for the checkpoints."""
    need = needs(
        shape_of(loaded.student), shape_of(loaded.teacher), plan.experiment, runtime, longest,
        one_model=plan.is_one_model,
    )  # fmt: skip
    name, free, total = device_memory(runtime)
    phases = ", ".join(f"{phase} {readable(amount)}" for phase, amount in need.phases.items())
    said = f"about {phases}; {name} has {readable(total)}, {readable(free)} free"
    if need.certain > total:
        yield Check(
            "memory", "fail",
            f"models, gradients and AdamW alone take {readable(need.certain)}; {name} has "
            f"{readable(total)}",
            "choose a smaller pair or a larger device"
            + ("" if plan.experiment.lora else ", or train adapters: --lora 16"),
        )  # fmt: skip
    elif need.peak > free:
        yield Check("memory", "warn", said, memory_advice(need, runtime))
    else:
        yield Check("memory", "pass", said)
    place = next(p for p in (runtime.runs_dir.absolute(), *runtime.runs_dir.absolute().parents)
                 if p.exists())  # fmt: skip
    left = shutil.disk_usage(place).free
    said = f"{readable(need.disk)} for checkpoints and the model; {readable(left)} free in {place}"
    if left < need.checkpoint:
        yield Check("disk space", "fail", said, "free some, or choose another --runs-dir")
    elif left < need.disk:
        yield Check("disk space", "warn", said, "free some, or choose another --runs-dir")
    else:
        yield Check("disk space", "pass", said)
