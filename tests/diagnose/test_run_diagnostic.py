"""The diagnostic end to end, on a small random pair: bank, updates, gains, record, files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import small_pair
import torch

from bench.cli.app import main
from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError
from bench.core.progress import open_progress
from bench.diagnose import build_bank as build_module
from bench.diagnose import context_bank as bank_module
from bench.diagnose import record_files
from bench.diagnose import run_diagnostic as module
from bench.diagnose.context_bank import ContextBank, depends_on_k
from bench.diagnose.diagnosis import Diagnosis
from bench.diagnose.measured import RESOLUTION
from bench.diagnose.updates import drawn_counts, make_updates, measure
from bench.pairs.models import load_model, read_agreement
from bench.pairs.pair import get_pair
from bench.selection.formulas import signals_from_logits
from bench.selection.signals import SIGNAL_NAMES
from bench.tasks.prompt_sets import get_prompts

DIAGNOSIS = {"responses": 12, "positions": 10, "k_sweep": [2, 4], "draws": 100, "keeps": [0.1, 0.3]}


@pytest.fixture(scope="module")
def pair() -> str:
    return str(small_pair.pair_folder())


def experiment(pair: str, **settings) -> Experiment:
    small = {"k": 4, "steps": 2, "prompts_per_step": 4, "max_new_tokens": 6}
    return Experiment.parse({"pair": pair, **small, **settings})


def runtime(folder: Path) -> Runtime:
    return Runtime(runs_dir=folder / "runs", progress="off", device="cpu", checkpoint_every=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("diagnose")


@pytest.fixture(scope="module")
def record(pair, folder, monkeypatch_module):
    return module.diagnose(experiment(pair), Diagnosis.parse(DIAGNOSIS), runtime(folder))


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank_module, "PART", 5)  # 12 responses in three parts, the last one short
        yield patch


@pytest.fixture
def bank(record, pair, folder, monkeypatch_module) -> ContextBank:
    found = ContextBank(full(pair), Diagnosis.parse(DIAGNOSIS), runtime(folder))
    assert found.missing("contexts") == []
    return found


def full(pair: str, **settings) -> Experiment:
    return experiment(pair, selector="full", keep=1.0, **settings)


def test_the_record_has_the_keys_it_promises(record):
    assert record["update_seeds"] == [0, 1, 2] and record["k"] == 4
    assert record["n_prompts"] == 12 and 12 < record["n_contexts"] <= 120
    for name in ("spearman", "auroc"):
        assert set(record[name]["forward_kl"]) == {"value", "ci95"}
    assert set(record["delta_spearman"]) == {"value", "ci95"}
    assert set(record["matched_top"]) == {"0.1", "0.3"}
    assert {"random", "oracle", "teachability"} <= set(record["matched_top"]["0.1"])
    assert set(record["matched_top"]["0.1"]["oracle"]) >= {"gain", "ci95"}
    assert set(record["regressions"]) == {"2", "4"}
    assert all(verdict["line"] for verdict in record["verdicts"])
    assert record["skipped"]["full"] == "always keeps 100 % of the tokens"


def test_columns_are_the_signals_of_dense_logits(bank, pair):
    student, teacher = (load_model(f"{pair}/{side}") for side in ("student", "teacher"))
    part, row = 1, 2
    rollout = bank.rollout(part)
    length = int(rollout.mask_BT[row].sum())
    start = int(rollout.prompt_length_B[row])
    sequence = rollout.sequence_BL[row : row + 1, : start + length]
    place = torch.arange(start - 1, start + length - 1)
    with torch.no_grad():
        dense = [bank.vocabulary.cut(m(sequence).logits)[:, place] for m in (student, teacher)]
    token_BT = rollout.token_BT[row : row + 1, :length]
    mine = bank.response_N == part * 5 + row
    assert mine.sum() == length
    for k in (2, 4):
        wanted = signals_from_logits(*dense, token_BT, token_BT >= 0, k=k)
        whole = bank.signals(SIGNAL_NAMES, k)
        for name in SIGNAL_NAMES:
            found = getattr(whole, name)[whole.mask_BT][torch.from_numpy(mine)]
            expected = getattr(wanted, name)[0]
            assert torch.allclose(found.float(), expected.float(), atol=1e-5), (name, k)


def test_signals_that_do_not_name_a_topk_do_not_depend_on_k(make_batch):
    batch = make_batch()
    one, other = (
        signals_from_logits(
            batch.student_logits_BTV, batch.teacher_logits_BTV, batch.token_BT, batch.mask_BT, k=k
        )
        for k in (2, 5)
    )
    for name in SIGNAL_NAMES:
        if not depends_on_k(name):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        elif name.endswith("_BTK"):  # a list at a smaller K is the start of a longer one
            assert torch.equal(getattr(one, name), getattr(other, name)[..., :2]), name


def test_gains_are_those_of_the_updated_student(bank, folder):
    (update, *_) = make_updates(bank, runtime(folder))
    with open_progress("off") as progress:
        after = measure(bank, update, runtime(folder), progress, None)  # kept beside the bank
    before = {name: bank.column(f"{name}_BT") for name in after}
    assert any(np.abs(before[name] - after[name]).max() > 1e-3 for name in after)
    assert len(after["forward_kl"]) == len(bank.response_N)


def test_a_student_that_did_not_change_has_no_gain_at_all(bank, folder, pair):
    from bench.diagnose.updates import score_after

    student = load_model(f"{pair}/student")
    with open_progress("off") as progress:
        after = score_after(bank, student, runtime(folder), progress, 0)
    for name, value_N in after.items():
        assert np.abs(value_N - bank.column(f"{name}_BT")).max() < RESOLUTION["float32"] / 2


def test_scores_of_every_selector_lie_beside_the_bank(bank, record):
    table = pq.read_table(bank.path / "scores.parquet")
    assert set(table.column_names) == set(record["selectors"])
    assert table.num_rows == record["n_contexts"]
    assert table.column("forward_kl").to_numpy() == pytest.approx(bank.column("forward_kl_BT"))


def test_the_same_settings_use_what_is_there_and_give_the_same_record(
    record, pair, folder, monkeypatch_module
):
    monkeypatch_module.setattr(
        build_module, "load_model", lambda path: pytest.fail("a finished bank loads no model")
    )
    again = module.diagnose(experiment(pair), Diagnosis.parse(DIAGNOSIS), runtime(folder))
    monkeypatch_module.undo()
    monkeypatch_module.setattr(bank_module, "PART", 5)
    assert again == record


def test_a_fresh_folder_gives_the_same_record(record, pair, tmp_path, monkeypatch_module):
    again = module.diagnose(experiment(pair), Diagnosis.parse(DIAGNOSIS), runtime(tmp_path))
    assert again == record


@pytest.mark.parametrize("killed_in", ["student", "teacher", "gain"])
def test_a_killed_diagnostic_goes_on_with_what_is_missing(
    killed_in, record, pair, tmp_path, monkeypatch, monkeypatch_module
):
    """Killed after one part of a stage, it makes only the rest, and the record is the same."""
    calls, real = {"student": 0, "teacher": 0, "gain": 0}, build_module.write_table
    kinds = {"responses": "student", "contexts": "teacher", "full": "gain"}

    def write(path, table):
        stage = next((s for name, s in kinds.items() if path.name.startswith(name)), None)
        if stage is not None:
            calls[stage] += 1
            if stage == killed_in and calls[stage] == 2:
                raise KeyboardInterrupt
        real(path, table)

    for place in (build_module, module.__dict__, measure.__globals__):
        if isinstance(place, dict):
            monkeypatch.setitem(place, "write_table", write)
        else:
            monkeypatch.setattr(place, "write_table", write)
    settings = (experiment(pair), Diagnosis.parse(DIAGNOSIS), runtime(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        module.diagnose(*settings)
    killed_in, before = "", dict(calls)
    assert module.diagnose(*settings) == record
    made = {stage: calls[stage] - before[stage] for stage in calls}
    done = {"student": 3, "teacher": 3, "gain": 3}
    for stage, count in before.items():
        done[stage] -= max(0, count - 1) if count and count < 3 else count
    assert made == done


def test_teacher_and_student_are_never_in_memory_together_for_the_bank(pair, tmp_path, monkeypatch):
    import gc
    import weakref

    alive, real = [], build_module.load_model

    def load(path):
        gc.collect()
        assert not [r for r in alive if r() is not None], "the other model is still in memory"
        model = real(path)
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr(build_module, "load_model", load)
    with open_progress("off") as progress:
        build_module.build_bank(
            ContextBank(full(pair), Diagnosis.parse(DIAGNOSIS), runtime(tmp_path)), progress
        )
    assert len(alive) == 2


def test_the_bank_is_named_by_its_content(pair, folder):
    def name(diagnosis=None, **settings):
        return ContextBank(
            full(pair, **settings),
            Diagnosis.parse(DIAGNOSIS | (diagnosis or {})),
            runtime(folder),
        ).id

    assert name() == name(steps=9, learning_rate=1e-2)  # the update's settings are not the bank's
    others = [name({"responses": 14}), name({"positions": 9}), name({"k_sweep": [2, 3]}),
              name(seed=1), name(temperature=0.5), name(dtype="bfloat16")]  # fmt: skip
    assert len({name(), *others}) == 7


def test_bfloat16_has_a_coarser_resolution(pair, tmp_path):
    found = module.diagnose(
        experiment(pair, dtype="bfloat16"),
        Diagnosis.parse(DIAGNOSIS | {"update_seeds": [0]}),
        runtime(tmp_path),
    )
    assert found["update_experiment"]["dtype"] == "bfloat16"
    assert found["gain"]["mean"]["value"] is not None


def test_one_step_is_taken_on_the_bank_and_a_run_is_a_checkpoint(record, pair, folder, tmp_path):
    one = module.diagnose(
        experiment(pair, learning_rate=1e-2),
        Diagnosis.parse(DIAGNOSIS | {"update": "one_step"}),
        runtime(folder),
    )
    assert one["bank"] == record["bank"] and one["update_experiment"]["steps"] == 1
    by_seed = one["verdicts"][0]["by_seed"]
    assert len(set(by_seed)) == 3  # each seed draws the bank's prompts anew
    assert drawn_counts(0, 50).sum() == 50 and (drawn_counts(0, 50) != drawn_counts(1, 50)).any()

    run = tmp_path / "a-run"
    shutil.copytree(f"{pair}/student", run / "model")
    points_to = {side: record["bank"][side] for side in ("teacher", "student")}
    settings = full(pair, seed=7).model_dump(mode="json")
    (run / "experiment.json").write_text(
        json.dumps({"experiment": settings, "points_to": points_to})
    )
    update = {"update": f"run:{run}"}
    found = module.diagnose(experiment(pair), Diagnosis.parse(DIAGNOSIS | update), runtime(folder))
    assert found["update_seeds"] == [7] and found["gain"]["none_share"] == 1
    assert found["verdicts"] == []
    (run / "experiment.json").write_text(
        json.dumps({"experiment": settings, "points_to": points_to | {"student": "0" * 64}})
    )
    with pytest.raises(ConfigError, match=r"another student than pair"):
        module.diagnose(experiment(pair), Diagnosis.parse(DIAGNOSIS | update), runtime(folder))


def test_an_update_on_a_prompt_of_the_bank_is_refused(pair, folder, monkeypatch):
    from bench.diagnose import updates
    from bench.tasks.prompt_sets import get_held_out

    monkeypatch.setattr(updates, "get_prompts", get_held_out)
    with pytest.raises(ConfigError, match=r"prompts: 'arithmetic' gives prompt .* holds it too"):
        module.diagnose(experiment(pair), Diagnosis.parse(DIAGNOSIS), runtime(folder))


def test_a_rule_that_needs_what_a_bank_cannot_give_is_named_with_its_reason(bank, tmp_path):
    rule = tmp_path / "rule.py"
    rule.write_text(
        "from bench import selector\n"
        "@selector('needs_more')\n"
        "def needs_more(signals):\n"
        "    '''Keep nothing.'''\n"
        "    raise ValueError('no rewards here')\n"
        "@selector('weighted', needs=('forward_kl_BT',), kind='weight')\n"
        "def weighted(signals):\n"
        "    '''Weigh by D.'''\n"
        "    return signals.forward_kl_BT.clamp(min=0)\n"
    )
    found = module.find_selectors([f"{rule}:needs_more", f"{rule}:weighted"])
    chosen = {name: found[name] for name in ("needs_more", "weighted", "full")}
    scores, skipped = module.score_bank(bank, chosen)
    assert set(scores) == {"weighted"}
    assert "no rewards here" in skipped["needs_more"]


@pytest.mark.parametrize(
    "diagnosis, message",
    [
        ({"responses": 7, "samples_per_prompt": 2}, r"responses: 7 is not a multiple"),
        ({"responses": 4, "samples_per_prompt": 4}, r"responses: intervals resample prompts"),
        ({"update": "two_steps"}, r"update: 'two_steps' is not accepted: train, one_step"),
        ({"update": "run:"}, r"update: 'run:' is not accepted"),
        ({"update_seeds": []}, r"update_seeds: \[\] must name one value"),
        ({"draws": 5}, r"draws: 5 is not accepted"),
        ({"respones": 5}, r"unknown name 'respones'; did you mean 'responses'"),
    ],
)
def test_bad_settings_are_one_clear_error(diagnosis, message):
    with pytest.raises(ConfigError, match=message):
        Diagnosis.parse(diagnosis)


def test_errors_of_a_diagnostic_name_the_field(pair, folder):
    def run(diagnosis=None, **settings):
        module.diagnose(
            experiment(pair, **settings),
            Diagnosis.parse(DIAGNOSIS | (diagnosis or {})),
            runtime(folder),
        )

    with pytest.raises(ConfigError, match=r"selector: 'tip' is not accepted: the update trains"):
        run(selector="tip")
    with pytest.raises(ConfigError, match=r"k: 5000 is not accepted: 1 to 657, the vocabulary"):
        run({"k_sweep": [5000]})
    with pytest.raises(ConfigError, match=r"update: run 'gone' is neither in .* nor a run folder"):
        run({"update": "run:gone"})


def test_stops_and_vocabulary_are_read_without_weights(pair):
    whole = small_pair.loaded_pair()
    found = read_agreement(get_pair(pair))
    assert found.vocabulary == whole.vocabulary and found.stops_agree
    assert found.student_stop_ids == whole.student_stop_ids


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["diagnose", *arguments])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_the_command_writes_a_record_and_check_finds_what_is_stale(
    record, pair, folder, tmp_path, capsys, monkeypatch_module
):
    flags = [
        "--pair", pair, "--k", "4", "--steps", "2", "--prompts-per-step", "4",
        "--max-new-tokens", "6", "--responses", "12", "--positions", "10", "--k-sweep", "2",
        "--k-sweep", "4", "--draws", "100", "--keeps", "0.1", "--keeps", "0.3", "--progress", "off",
        "--checkpoint-every", "1", "--device", "cpu",
        "--runs-dir", str(folder / "runs"), "--out", str(tmp_path),
    ]  # fmt: skip
    code, out, _ = call(capsys, *flags, "--json")
    assert code == 0 and json.loads(out) == record
    place = tmp_path / Path(pair).name
    assert record_files.read_record(place / "diagnostic.json") == record
    check = ["--check", "--out", str(tmp_path)]
    assert call(capsys, *check)[0] == 0
    (place / "diagnostic.md").write_text("by hand")
    code, _, error = call(capsys, *check)
    assert code == 1 and "diagnostic.md" in error
    code, out, _ = call(capsys, *flags)
    assert code == 0 and record["verdicts"][0]["line"].split(":")[0] in " ".join(out.split())
    assert call(capsys, *check)[0] == 0
    assert call(capsys, "--check", "--out", str(tmp_path / "none"))[0] == 1


def test_the_committed_records_give_the_committed_pages_and_figures(capsys):
    root = Path(__file__).parents[2] / "results" / "diagnostic"
    assert call(capsys, "--check", "--out", str(root))[0] == 0


def test_the_bank_of_a_prompt_file_holds_what_no_update_draws(pair, tmp_path):
    file = tmp_path / "own.jsonl"
    lines = [{"problem": f"Tom has {n} apples and buys {n + 3}.", "answer": str(2 * n + 3)}
             for n in range(40)]  # fmt: skip
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = experiment(pair, prompts=str(file), instruction="")
    diagnosis = Diagnosis.parse({**DIAGNOSIS, "update_seeds": [0, 1]})
    found = module.diagnose(settings, diagnosis, runtime(tmp_path))
    assert (found["n_prompts"], found["update_seeds"]) == (12, [0, 1])
    held_out = {prompt.id for prompt in ContextBank(settings, diagnosis, runtime(tmp_path)).prompts}
    assert len(held_out) == 12
    agreement = read_agreement(get_pair(pair))
    prompts = get_prompts(settings).prepare(agreement.tokenizer, agreement.chat)
    for seed in (0, 1):
        for step in range(settings.steps):
            drawn = {p.id for p in prompts.draw(step, settings.prompts_per_step, seed)}
            assert len(drawn) == 4 and not drawn & held_out
    with pytest.raises(
        ConfigError, match="responses: .* has 0 prompts that no update draws, not 12"
    ):
        ContextBank(experiment(pair, prompts=str(file), steps=10), diagnosis, runtime(tmp_path))
