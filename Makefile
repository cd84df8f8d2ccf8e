# `make demo` and `make test` need Python 3.11+, pip and make; the rest is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: demo test fire lint results tokens vendor baselines benchmark gpu clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: .venv/.installed
	$(BIN)/bench run --selector teachability --keep 0.05

# On all cores; one after another with make test JOBS=0. The ten slowest are listed.
JOBS ?= auto
test: .venv/.installed
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --durations 10

# Everything that can go wrong, tried: crash points, faults, damage, inputs, endurance, mutants.
# An hour and a half on two idle cores; a share of it (0 to 1): make fire FIRE=0.25
FIRE ?= 1
fire: .venv/.installed
	OPD_BENCH_FIRE=$(FIRE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/fire --timeout 14400
	if [ "$(FIRE)" = 1 ]; then $(BIN)/python tests/fire/mutants.py --count 200; fi

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	if command -v npx > /dev/null; then cd bench/report/assets && npx --yes eslint@10.15.0 *.js; fi

# Tables and figures from results/rows.jsonl, and the README's headline.
results: .venv/.installed
	$(BIN)/bench leaderboard --out results
	$(BIN)/bench leaderboard results/mismatch/rows.jsonl --out results/mismatch
	$(BIN)/bench leaderboard results/rates/rows.jsonl --out results/rates
	$(BIN)/bench report --out results/report.html
	sed -i -e '/<!-- headline -->/,/<!-- \/headline -->/{//!d}' -e '/<!-- headline -->/r results/headline.md' README.md

# Responses token by token for the page: a run of each embedded pair, all rules beside it.
TOKENS := --steps 20 --token-bank 20 --shadow all --shadow-every 5 --log-signals gain_BT --eval-items 64
tokens: .venv/.installed
	for pair in tiny-qwen3 tiny-qwen2.5; do $(BIN)/bench run --pair $$pair $(TOKENS) --runs-dir runs/tokens; done
	$(BIN)/python -m bench.report.sample runs/tokens results/tokens

# The libraries that the page carries, from the npm registry, checked against their sums.
vendor: .venv/.installed
	$(BIN)/python -m bench.report.vendor

# Scores of the embedded pairs before training, which ship with them: after a change of evaluation.
baselines: .venv/.installed
	$(BIN)/python -m bench.run.shipped

# Speed and memory against TRL, one thread: results/benchmark.md and .json.
# About half an hour on an idle machine.
benchmark: .venv/.installed
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev,benchmark]"
	$(BIN)/python tests/benchmarks/curves.py
	$(BIN)/python tests/benchmarks/against_trl.py

# The first hour on a GPU: results/gpu.md and .json, in under ten minutes on one card. With an
# interpreter that has all that is needed: make gpu GPU_PYTHON=python3
GPU_PYTHON ?= $(BIN)/python
gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),.venv/.installed)
	if [ $(GPU_PYTHON) = $(BIN)/python ]; then $(BIN)/pip install --quiet -c constraints.txt -e ".[dev,benchmark]"; fi
	$(GPU_PYTHON) tests/benchmarks/gpu.py $(if $(GPU_OUT),--out $(GPU_OUT))

clean:
	rm -rf .venv runs build *.egg-info
