"""The fixed-context diagnostic: bank, updates, gains, analyses, and what is written of them.

`diagnose` is the whole of it; everything it makes on the way lies in the runs folder, is named by
its content and is used again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from bench.core.arrays import column_array, write_table
from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError
from bench.core.processes import make_accelerator
from bench.core.progress import Progress, open_progress
from bench.core.provenance import provenance
from bench.core.randomness import keyed_uniform
from bench.core.stopping import StopRequest
from bench.diagnose import against_leaderboard as against
from bench.diagnose.analysis import Analysis
from bench.diagnose.bootstrap import significant
from bench.diagnose.build_bank import build_bank
from bench.diagnose.compatibility import PROXIES
from bench.diagnose.context_bank import GRADIENTS, ContextBank, at_k
from bench.diagnose.diagnosis import Diagnosis
from bench.diagnose.measured import RESOLUTION, Measured, gains
from bench.diagnose.record import make_record
from bench.diagnose.record_files import SCHEMA_VERSION
from bench.diagnose.updates import Update, make_updates, measure
from bench.run.plan import identity_of
from bench.selection.registry import Selector, SelectorError, get_selector, selector_names
from bench.selection.signals import EXTRA_SIGNALS
from bench.tables.rows import read_rows

NOT_OF_THE_UPDATE = ("selector", "selector_params", "keep")
"""Settings that the diagnostic fixes: the update trains on all tokens."""
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
        bank = ContextBank(experiment, diagnosis, runtime)
        updates = make_updates(bank, runtime)
        build_bank(bank, progress)
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
    bank: ContextBank, selectors: Mapping[str, Selector]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(selector -> score_N over the bank as one batch, selector -> why it has none).

    Scores are also written beside the bank, a column each.
    """
    scores: dict[str, np.ndarray] = {}
    skipped: dict[str, str] = {}
    mask_BT = bank.base.mask_BT
    for name, selector in selectors.items():
        if selector.keep is not None and not selector.abstains:
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
    bank: ContextBank, scores: Mapping[str, np.ndarray], after: Sequence[Mapping[str, np.ndarray]]
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
    bank: ContextBank,
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
