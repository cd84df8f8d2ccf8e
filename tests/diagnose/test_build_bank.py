"""The bank is built model by model, and goes on where it was killed."""

import pytest
from small_diagnosis import DIAGNOSIS, experiment, full, runtime

from bench.core.progress import open_progress
from bench.diagnose import build_bank as build_module
from bench.diagnose import run_diagnostic as module
from bench.diagnose.context_bank import ContextBank
from bench.diagnose.diagnosis import Diagnosis
from bench.diagnose.updates import measure


@pytest.mark.parametrize("killed_in", ["student", "teacher", "gain"])
def test_a_killed_diagnostic_goes_on_with_what_is_missing(
    killed_in, record, pair, tmp_path, monkeypatch, three_parts
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
