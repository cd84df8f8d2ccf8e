"""[claims] of a sweep's file: of its own rules and keeps, each once; and what `--plan` says."""

import json
from datetime import date

import pytest
from command import call
from small_sweep import runtime
from small_sweep import write as write_sweep

from bench.core.errors import ConfigError
from bench.sweep.sweep_file import read_claims, read_sweep

CLAIM = '{ words = "as well", rule = "entropy", reference = "full", keep = 0.1, margin = 0.02 }'
CLAIMS = f"\n[claims]\nnamed = 2026-11-26\nprimary = [{CLAIM}]\n"


def write(folder, text=""):
    """The small sweep and more text at its end."""
    path = write_sweep(folder)
    path.write_text(path.read_text() + text)
    return path


def test_the_claims_of_a_file_are_read_without_its_pairs(tmp_path):
    found = read_claims(write(tmp_path, CLAIMS))
    assert (found.sweep, found.is_tuned) == ("small", False)
    assert found.claims.named == date(2026, 11, 26)
    (claim,) = found.claims.primary
    assert (claim.rule, claim.reference, claim.keep, claim.margin) == ("entropy", "full", 0.1, 0.02)
    assert {values["selector"] for values in found.experiments} == {"full", "random", "entropy"}
    assert read_claims(write(tmp_path)) is None


def test_claims_change_no_run(tmp_path):
    plain = read_sweep(write(tmp_path), runtime(tmp_path)).plans
    claimed = read_sweep(write(tmp_path, CLAIMS), runtime(tmp_path)).plans
    assert [plan.run_id for plan in plain] == [plan.run_id for plan in claimed]


@pytest.mark.parametrize(
    "change, message",
    [
        (("entropy", "entropie"), "claims.primary: unknown name 'entropie'"),
        (("keep = 0.1", "keep = 0.7"), "keep 0.7 is not accepted: the sweep runs 0.1, 0.3"),
        (('"full"', '"entropy"'), "'entropy' is the rule itself"),
        (("margin = 0.02", "margin = 2"), "margin"),
        (("margin = 0.02", "size = 2"), "size"),
        ((f"[{CLAIM}]", f"[{CLAIM}, {CLAIM}]"), "entropy − full at 0.1 is named twice"),
        ((f"primary = [{CLAIM}]", ""), "no claim is named"),
        (("named = 2026-11-26", ""), "named"),
    ],
)  # fmt: skip
def test_a_wrong_claim_is_refused_with_its_line(tmp_path, change, message):
    path = write(tmp_path, CLAIMS.replace(*change))
    with pytest.raises(ConfigError) as found:
        read_claims(path)
    assert message in str(found.value)
    place, _, _ = str(found.value).partition(": ")
    assert place.startswith(str(path))


def test_a_plan_says_the_seeds_that_claims_need_and_runs_nothing(tmp_path, capsys):
    path = write(tmp_path, CLAIMS)
    code, out, _ = call(capsys, "sweep", path, "--plan", "--json", "--runs-dir", tmp_path / "runs")
    (claim,) = json.loads(out)["claims"]
    assert code == 0 and not (tmp_path / "runs").exists()
    assert (claim["seeds"], claim["comparisons"], claim["regime"]) == (2, 1, claim["regime"])
    assert claim["smallest_points"] == {"quiet": None, "noisy": None}, "no two seeds were simulated"
    assert claim["seeds_needed"]["5"]["quiet"] == 3
    code, out, _ = call(capsys, "sweep", path, "--plan")
    assert code == 0 and "entropy − full, margin 2" in out and "primary, 1" in out
    code, _, err = call(capsys, "sweep", write(tmp_path), "--plan")
    assert code == 2 and "names no [claims]" in err
