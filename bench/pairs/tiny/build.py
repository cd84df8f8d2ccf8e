"""The embedded teacher-student pairs: recipes, and the builder that made the weights."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from bench.core.errors import ConfigError
from bench.core.files import folder_written_whole, read_json, write_text
from bench.core.sums import sums_of, write_sums
from bench.pairs.tiny.pretrain import ModelRecipe, ProgressFn, train
from bench.pairs.tiny.tokenizer import MAX_CONTEXT, build_tokenizer

VOCAB_MULTIPLE = 64  # padded vocabulary sizes are multiples of this
WORK_DIR = ".build"  # checkpoints, inside the pair's folder until it is complete
BUILD_THREADS = 1  # fixed, so that a build does not depend on the number of cores
PLAIN_LINE_EVERY = 20  # steps between progress lines where output is no terminal


@dataclass(frozen=True)
class PairRecipe:
    """A teacher and a student of one architecture."""

    architecture: str
    teacher: ModelRecipe
    student: ModelRecipe


_TEACHER = ModelRecipe(
    width=144, layers=4, intermediate=432, heads=4, kv_heads=2, vocab_padding=1,
    equation_share=1.0, steps=800,
)  # fmt: skip
_STUDENT = ModelRecipe(
    width=96, layers=3, intermediate=192, heads=4, kv_heads=2, vocab_padding=0,
    equation_share=1.0, steps=3000, stop_at=0.38,
)  # fmt: skip
STYLE_SHARE = 0.2  # share of steps in which the tiny-qwen2.5 teacher prefers its own wording
RECIPES: dict[str, PairRecipe] = {
    "tiny-qwen3": PairRecipe("qwen3", _TEACHER, _STUDENT),
    "tiny-qwen2.5": PairRecipe(
        "qwen2",
        replace(_TEACHER, equation_share=STYLE_SHARE, steps=1200),
        replace(_STUDENT, equation_share=0.0),
    ),
}
RETUNE_LEARNING_RATE = 5e-4
RETUNE_SEED = 1000  # added to the seed: other problems than pre-training saw


def build_pair(
    name: str,
    out_dir: Path | str,
    *,
    style_share: float | None = None,
    seed: int = 0,
    progress: ProgressFn | None = None,
    recipe: PairRecipe | None = None,
) -> Path:
    """Builds pair `name` from scratch into `out_dir`/teacher and `out_dir`/student.

    `style_share` is the share of solution steps that the teacher words as equations (the recipe's
    own when None). Killed and started again with the same arguments, it continues from its last
    checkpoint and ends with the same weights; a finished pair is left as it is. Raises ConfigError
    for an unknown name, a share outside [0, 1], or an `out_dir` that holds something else.
    """
    recipe = recipe or _recipe_of(name)
    if style_share is not None:
        _check_share(style_share)
        recipe = replace(recipe, teacher=replace(recipe.teacher, equation_share=style_share))
    out_dir = Path(out_dir)
    plan = {"name": name, "seed": seed, "recipe": asdict(recipe)}
    work_dir = _claim(out_dir, plan)
    if work_dir is None:
        return out_dir
    tokenizer = build_tokenizer()
    taken = {}
    for order, role in enumerate(("teacher", "student")):
        model_recipe: ModelRecipe = getattr(recipe, role)
        model = build_model(recipe.architecture, model_recipe, tokenizer, seed)
        data_seed = 2 * seed + order  # teacher and student see different problems
        taken[role] = _train_into(
            work_dir, role, model, tokenizer, model_recipe, data_seed, f"{name} {role}", progress
        )  # fmt: skip
    _finish(work_dir, {**plan, "trained": taken})
    return out_dir


def retune_teacher(
    pair_dir: Path | str,
    out_dir: Path | str,
    style_share: float,
    steps: int = 200,
    seed: int = 0,
    *,
    progress: ProgressFn | None = None,
) -> Path:
    """Writes a pair to `out_dir`: the teacher of `pair_dir` fine-tuned to another `style_share`.

    The student is copied. Resumable like `build_pair`. Raises ConfigError for a share outside
    [0, 1], or a `pair_dir` that is no built pair.
    """
    pair_dir, out_dir = Path(pair_dir), Path(out_dir)
    _check_share(style_share)
    if not (pair_dir / "build.json").is_file():
        raise ConfigError(f"{pair_dir} holds no build.json: only a pair built here can be retuned")
    origin = read_json(pair_dir / "build.json")
    teacher = {**origin["recipe"]["teacher"], "betas": tuple(origin["recipe"]["teacher"]["betas"])}
    recipe = replace(
        ModelRecipe(**teacher),
        equation_share=style_share,
        steps=steps,
        learning_rate=RETUNE_LEARNING_RATE,
    )
    retuned = {"teacher": asdict(recipe), "seed": seed}
    plan = {**origin, "retuned": retuned, "facts": {"style_share": style_share}}
    work_dir = _claim(out_dir, plan)
    if work_dir is None:
        return out_dir
    tokenizer = AutoTokenizer.from_pretrained(pair_dir / "teacher", trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(pair_dir / "teacher", trust_remote_code=False)
    _train_into(
        work_dir, "teacher", model, tokenizer, recipe, RETUNE_SEED + seed,
        f"{origin['name']} teacher, style share {style_share}", progress,
    )  # fmt: skip
    shutil.copytree(pair_dir / "student", out_dir / "student", dirs_exist_ok=True)
    _finish(work_dir, plan)
    return out_dir


def _check_share(style_share: float) -> None:
    if not 0 <= style_share <= 1:
        raise ConfigError(f"style_share must lie in [0, 1], got {style_share}")


def build_model(
    architecture: str, recipe: ModelRecipe, tokenizer: PreTrainedTokenizerFast, seed: int
) -> PreTrainedModel:
    """A freshly initialised model of a real transformers class; the weights depend on `seed`."""
    config_class, model_class = {
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    }[architecture]
    padded = math.ceil(len(tokenizer) / VOCAB_MULTIPLE) + recipe.vocab_padding
    config = config_class(
        vocab_size=padded * VOCAB_MULTIPLE,
        hidden_size=recipe.width,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        head_dim=recipe.width // recipe.heads,
        max_position_embeddings=MAX_CONTEXT,
        tie_word_embeddings=True,
        # At the usual 0.02 these narrow models do not learn to copy an item's name: early training
        # moves all item embeddings together, further than they lie apart.
        initializer_range=recipe.width**-0.5,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    model = model_class(config).float()
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


@contextmanager
def console_progress() -> Iterator[ProgressFn]:
    """A rich bar on a terminal (standard error), plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield _plain_progress
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    numbers, left = TextColumn("{task.fields[numbers]}"), TimeRemainingColumn()
    with Progress(*columns, numbers, left, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def show(label: str, step: int, steps: int, fields: dict[str, float]) -> None:
            if label not in tasks:
                tasks[label] = bar.add_task(label, total=steps, numbers="")
            bar.update(tasks[label], completed=step, numbers=_numbers(fields))

        yield show


def _plain_progress(label: str, step: int, steps: int, fields: dict[str, float]) -> None:
    if step % PLAIN_LINE_EVERY == 0 or step == steps:
        print(f"{label}: step {step}/{steps} {_numbers(fields)}", file=sys.stderr, flush=True)


def _numbers(fields: dict[str, float]) -> str:
    return " ".join(f"{key} {value:.3f}" for key, value in fields.items())


def _recipe_of(name: str) -> PairRecipe:
    if name not in RECIPES:
        raise ConfigError(f"unknown embedded pair {name!r}: known are {', '.join(RECIPES)}")
    return RECIPES[name]


def _claim(out_dir: Path, plan: dict) -> Path | None:
    """The work folder of this build, or None where it is complete.

    ConfigError where `out_dir` holds anything but a build of this plan.
    """
    work_dir = out_dir / WORK_DIR
    text = json.dumps(plan, indent=1, sort_keys=True)
    for path in (out_dir / "build.json", work_dir / "plan.json"):
        if path.exists():
            begun = read_json(path)
            if any(begun.get(key) != value for key, value in json.loads(text).items()):
                raise ConfigError(f"{path} is of another build; choose another folder or remove it")
            return None if path.name == "build.json" else work_dir
    if out_dir.exists() and any(path.name != WORK_DIR for path in out_dir.iterdir()):
        raise ConfigError(f"{out_dir} is not empty and holds no build; choose another folder")
    work_dir.mkdir(parents=True, exist_ok=True)
    write_text(work_dir / "plan.json", text)
    return work_dir


def _train_into(
    work_dir: Path,
    role: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    recipe: ModelRecipe,
    seed: int,
    label: str,
    progress: ProgressFn | None,
) -> dict:
    """Trains `model` and saves it to `work_dir`'s parent under the name `role`.

    Returns the steps taken. A model that is there is kept.
    """
    final, done = work_dir.parent / role, work_dir / f"{role}.json"
    if final.exists() and done.exists():
        return read_json(done)
    threads = torch.get_num_threads()
    torch.set_num_threads(BUILD_THREADS)
    with nullcontext(progress) if progress else console_progress() as report:
        checkpoint = work_dir / role
        steps = train(
            model, tokenizer, recipe, seed=seed, checkpoint=checkpoint, label=label, progress=report
        )
    torch.set_num_threads(threads)
    record = {"steps": steps}
    write_text(done, json.dumps(record))
    disable_progress_bar()
    with folder_written_whole(final) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    enable_progress_bar()
    return record


def _finish(work_dir: Path, record: dict) -> None:
    folder = work_dir.parent
    models = [f for role in ("student", "teacher") for f in (folder / role).rglob("*")]
    write_sums(folder, sums_of(folder, filter(Path.is_file, models)))
    text = json.dumps(record, indent=1, sort_keys=True)
    write_text(folder / "build.json", text + "\n")
    shutil.rmtree(work_dir)
