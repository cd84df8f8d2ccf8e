"""The fixed-context diagnostic: bank, updates, gains, analyses, and what is written of them.

`diagnose` is the whole of it; everything it makes on the way lies in the runs folder, is named by
its content and is used again.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.core.config import ConfigError, Diagnosis, Experiment, Runtime
from bench.core.processes import make_accelerator
from bench.core.progress import Progress, open_progress
from bench.core.randomness import keyed_uniform
from bench.core.records import provenance, write_text
from bench.core.stopping import StopRequest
from bench.diagnose import against_leaderboard as against
from bench.diagnose import figures as diagnostic_figures
from bench.diagnose import page as diagnostic_sheet
from bench.diagnose.analysis import Analysis, Measured, make_record
from bench.diagnose.bootstrap import significant
from bench.diagnose.compatibility import GRADIENTS, PROXIES
from bench.diagnose.context_bank import Bank, at_k, column_array, write_table
from bench.diagnose.measured import RESOLUTION, gains, measure
from bench.diagnose.updates import Update, make_updates
from bench.run.plan import identity_of
from bench.selection.formulas import EXTRA_SIGNALS
from bench.selection.registry import Selector, SelectorError, get_selector, selector_names
from bench.tables.rows import read_rows

NOT_OF_THE_UPDATE = ("selector", "selector_params", "keep")
"""Settings that the diagnostic fixes: the update trains on all tokens."""
SCHEMA_VERSION = 1
RECORD, PAGE = "diagnostic.json", "diagnostic.md"

DEFAULT_DIAGNOSIS, DEFAULT_RUNTIME = Diagnosis(), Runtime()


def diagnose(
    experiment: Experiment,
    diagnosis: Diagnosis = DEFAULT_DIAGNOSIS,
    runtime: Runtime = DEFAULT_RUNTIME,
    rows: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The record of the diagnostic of an experiment's pair, its update an OPD run on all tokens.

    rows   file name -> text of rows.jsonl files: does the diagnostic predict their accuracies?

    Raises ConfigError for bad input, Stopped when interrupted (the same call goes on), BenchError
    otherwise.
    """
    for name in experiment.model_fields_set & set(NOT_OF_THE_UPDATE):
        raise ConfigError(
            f"{name}: {getattr(experiment, name)!r} is not accepted: the update trains on all "
            "tokens, and every registered selector is scored (selectors adds your own)"
        )
    experiment = experiment.model_copy(
        update={"selector": "full", "selector_params": {}, "keep": 1.0}
    )
    published = read_rows(rows) if rows is not None else None
    selectors = find_selectors(diagnosis.selectors)
    with open_progress(runtime.progress) as progress, StopRequest().installed() as stop:
        bank = Bank(experiment, diagnosis, runtime)
        updates = make_updates(bank, runtime)
        bank.build(progress)
        after = [measure(bank, update, runtime, progress, stop) for update in updates]
        scores, skipped = score_bank(bank, selectors)
        measured = assemble(bank, scores, after)
        analysis = Analysis(
            measured, diagnosis.keeps, diagnosis.draws, experiment.seed, _reporter(progress)
        )
        record = origin(bank, updates, selectors, skipped) | make_record(analysis)
        if published is not None:
            is_run = diagnosis.update.startswith("run:")
            record["against"] = against.compare_rows(
                analysis,
                published,
                experiment.pair,
                updates[0].experiment if is_run else experiment,
                {name: dict(selector.params) for name, selector in selectors.items()},
            )
    return plain(record)


def find_selectors(further: Sequence[str]) -> dict[str, Selector]:
    """Every registered selector and the further ones, by the name that the record uses."""
    found = {name: get_selector(name) for name in selector_names()}
    for name in further:
        selector = get_selector(name)
        if selector.name in found and name not in found:
            raise ConfigError(f"selectors: {name!r} is called {selector.name!r}, as another one is")
        found[selector.name] = selector
    return found


def score_bank(
    bank: Bank, selectors: Mapping[str, Selector]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(selector -> score_N over the bank as one batch, selector -> why it has none).

    Scores are also written beside the bank, a column each.
    """
    scores: dict[str, np.ndarray] = {}
    skipped: dict[str, str] = {}
    mask_BT = bank.base.mask_BT
    for name, selector in selectors.items():
        if selector.keep is not None:
            skipped[name] = f"always keeps {100 * selector.keep:g} % of the tokens"
            continue
        if beyond := [need for need in selector.needs if need in EXTRA_SIGNALS]:
            skipped[name] = f"reads {', '.join(beyond)}, which only a run computes"
            continue
        try:
            score_BT = selector(bank.signals(selector.needs, bank.experiment.k))
        except SelectorError as error:
            skipped[name] = str(error)
            continue
        scores[name] = score_BT[mask_BT].double().numpy()
    columns = {name: column_array(score_N.astype(np.float32)) for name, score_N in scores.items()}
    write_table(bank.path / "scores.parquet", pa.table(columns))
    return scores, skipped


def assemble(
    bank: Bank, scores: Mapping[str, np.ndarray], after: Sequence[Mapping[str, np.ndarray]]
) -> Measured:
    """The columns that the analyses read."""
    before = {name: bank.column(f"{name}_BT") for name in ("forward_kl", "reverse_kl")}
    resolution = RESOLUTION[bank.experiment.dtype]
    mask_BT = bank.base.mask_BT
    shape = (mask_BT.shape[0], mask_BT.shape[1])
    tie_BT = keyed_uniform(bank.experiment.seed, "diagnostic tie", 0, bank.row_keys, shape)
    gradients = GRADIENTS if bank.diagnosis.gradients else ()
    mass = "teacher_mass_on_student_topk_BT"
    return Measured(
        prompt_N=bank.prompt_N,
        position_N=bank.column("position"),
        entropy_N=bank.column("student_entropy_BT"),
        teacher_entropy_N=bank.column("teacher_entropy_BT"),
        divergence_N=before["forward_kl"],
        compatibility_N={k: bank.column(at_k(mass, k)) for k in bank.ks},
        proxy_N={p: {k: bank.column(at_k(p, k)) for k in bank.ks} for p in PROXIES},
        score_N=scores,
        gain_SN=gains(before, after, resolution),
        tie_N=tie_BT[mask_BT].double().numpy(),
        k=bank.experiment.k,
        resolution=resolution,
        gradient_N={name: bank.column(f"gradient_{name}") for name in gradients},
    )


def origin(
    bank: Bank,
    updates: Sequence[Update],
    selectors: Mapping[str, Selector],
    skipped: Mapping[str, str],
) -> dict[str, Any]:
    """Where a record comes from: everything but the measurements."""
    device = make_accelerator(bank.experiment, bank.runtime).device
    settings = {k: v for k, v in identity_of(updates[0].experiment).items() if k != "seed"}
    return {
        "schema_version": SCHEMA_VERSION,
        "pair": bank.experiment.pair,
        "update": bank.diagnosis.update,
        "update_seeds": [update.seed for update in updates],
        "update_experiment": settings,
        "diagnosis": bank.diagnosis.model_dump(mode="json"),
        "bank": {
            "id": bank.id,
            "seed": bank.experiment.seed,
            "responses": bank.diagnosis.responses,
            "teacher": bank.points_to["teacher"],
            "student": bank.points_to["student"],
        },
        "selectors": {
            name: {"kind": selector.kind, "abstains": selector.abstains,
                   "reads_sampled_token": selector.reads_sampled_token,
                   "code": selector.code_sha256()[:16]}
            for name, selector in selectors.items() if name not in skipped
        },
        "skipped": dict(skipped),
        "provenance": provenance(device.type),
    }  # fmt: skip


def _reporter(progress: Progress) -> Callable[[str, int, int], None]:
    phase = ""

    def advance(name: str, done: int, total: int) -> None:
        nonlocal phase
        if name != phase:
            phase = name
            progress.start(name, total)
        progress.update(done)

    return advance


def plain(value: Any) -> Any:
    """The record in JSON's own types, floats to six digits."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return significant(float(value))
    return int(value) if isinstance(value, np.integer) else value


# --- files ---------------------------------------------------------------------------------------


def folder_name(pair: str, update: str) -> str:
    """The folder of a record: the pair's, and the update's where it is not `train`."""
    kind = update.partition(":")[0]
    name = Path(pair).name
    return name if kind == "train" else f"{name}-{kind}"


def documents(record: Mapping[str, Any]) -> dict[str, bytes]:
    """File name -> content of all that is written from a record."""
    page = diagnostic_sheet.to_markdown(record).encode()
    return {PAGE: page, **diagnostic_figures.draw_all(record)}


def write(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """The record, its page and its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECORD, to_text(record))
    paths = [folder / RECORD]
    for name, content in documents(record).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    return paths


def to_text(record: Mapping[str, Any]) -> str:
    """Indented JSON, with lists of numbers and innermost objects on one line each."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    for inner in (r"\[\s+([^\[\]{}]*?)\s+\]", r"\{\s+([^{}\n]*(?:\n[^{}\n]*){0,6}?)\s+\}"):
        text = re.sub(inner, lambda m: m[0][0] + re.sub(r"\s*\n\s*", " ", m[1]) + m[0][-1], text)
    return text + "\n"


def stale(folder: Path) -> list[Path]:
    """Files of a record that are missing or are not what it gives; a PNG need only be there."""
    found = []
    for name, content in documents(read_record(folder / RECORD)).items():
        path = folder / name
        is_same = path.is_file() and (path.suffix == ".png" or path.read_bytes() == content)
        found += [] if is_same else [path]
    return found


def read_record(path: Path) -> dict[str, Any]:
    """A record that was written. Raises ConfigError naming the file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error}") from error
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{str(path)!r}: schema_version {version!r} is not {SCHEMA_VERSION}")
    return record
