"""One small diagnostic, measured once for the room: its pair, folder, record and bank."""

from pathlib import Path

import pytest
import small_pair
from small_diagnosis import DIAGNOSIS, experiment, full, runtime

from bench.diagnose import context_bank as bank_module
from bench.diagnose import run_diagnostic as module
from bench.diagnose.context_bank import ContextBank
from bench.diagnose.diagnosis import Diagnosis


@pytest.fixture(scope="package")
def pair() -> str:
    return str(small_pair.pair_folder())


@pytest.fixture(scope="package")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("diagnose")


@pytest.fixture(scope="package")
def record(pair, folder, three_parts):
    return module.diagnose(experiment(pair), Diagnosis.parse(DIAGNOSIS), runtime(folder))


@pytest.fixture(scope="package")
def three_parts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank_module, "PART", 5)  # 12 responses in three parts, the last one short
        yield patch


@pytest.fixture
def bank(record, pair, folder, three_parts) -> ContextBank:
    found = ContextBank(full(pair), Diagnosis.parse(DIAGNOSIS), runtime(folder))
    assert found.missing("contexts") == []
    return found
