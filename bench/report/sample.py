"""`python -m bench.report.sample RUNS OUT`: what the published page shows of runs with token banks.

For each run with a bank and a shadow log, some responses of its last banked step, and the overlap
of the rules' masks over the whole log. `make tokens` makes the runs.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.core.arrays import write_table
from bench.core.errors import ConfigError
from bench.core.files import write_bytes
from bench.report.tokens import FACTS, RESPONSES, Bank, read_bank, sampled
from bench.shadow.overlap import read_shadow


def write_sample(bank: Bank, path: Path, count: int = RESPONSES) -> None:
    """Some responses of a bank as a file of their own, without scores; the explorer reads it."""
    part = sampled(bank, count)
    left = [n for n in part.table.column_names if n.startswith(("score_", "mask_"))]
    table = part.table.drop_columns(left)
    listed = {
        str(token)
        for name in ("student_topk_id", "teacher_topk_id")
        for ids in table[name].to_pylist()
        for token in ids
    }
    facts = {name: part.facts[name] for name in (*FACTS, "own_budget")}
    prompts = set(table["prompt_id"].to_pylist())
    facts["prompts"] = {
        name: facts["prompts"][name] for name in facts["prompts"] if name in prompts
    }
    facts["texts"] = {token: text for token, text in facts["texts"].items() if token in listed}
    metadata = {"opd_bench": json.dumps(facts, ensure_ascii=False)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, table.replace_schema_metadata(metadata), compression="zstd")


def write_published(runs: Sequence[Path], out: Path) -> None:
    """PAIR.parquet and PAIR.overlap.json of each run. Raises ConfigError for two of one pair."""
    written: set[str] = set()
    for run in runs:
        bank = read_bank(sorted((run / "token_bank").glob("step-*.parquet"))[-1])
        pair = bank.facts["pair"]
        if pair in written:
            raise ConfigError(f"{run}: a run of {pair} was written already")
        written.add(pair)
        write_sample(bank, out / f"{pair}.parquet")
        log = (run / "shadow.jsonl").read_text(encoding="utf-8")
        overlap = json.dumps(read_shadow(log, run.name).to_json(), ensure_ascii=False)
        write_bytes(out / f"{pair}.overlap.json", f"{overlap}\n".encode())


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit("use: python -m bench.report.sample RUNS OUT")
    runs, out = map(Path, sys.argv[1:])
    write_published(sorted(path.parent for path in runs.glob("*/token_bank")), out)


if __name__ == "__main__":
    main()
