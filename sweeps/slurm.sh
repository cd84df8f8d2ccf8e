#!/bin/bash
# A sweep as a Slurm array: every task is one worker on one GPU, all on the same database.
#
#   export BENCH_STORAGE=postgresql+psycopg://user@host/db       # a server that every node reaches
#   sbatch --array=0-7 sweeps/slurm.sh sweeps/qwen3.toml         # eight workers
#
# Workers take trials until none is left; tasks that Slurm kills or requeues go on from their
# checkpoints, and adding tasks later is safe. RUNS must be a file system that all nodes share.
#SBATCH --job-name=opd-bench
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output=%x-%A_%a.log
set -euo pipefail
sweep=${1:?usage: sbatch --array=0-N sweeps/slurm.sh SWEEP.toml [bench sweep flags]}
: "${BENCH_STORAGE:?set BENCH_STORAGE to the URL of the shared database}"
runs=${RUNS:-runs}
rows=${ROWS:-$runs/rows.jsonl}

# Slurm signals the shell two minutes before the end; the worker saves and gives its trial back.
trap 'kill -TERM "$worker"; wait "$worker"' TERM
bench sweep "$sweep" --workers 1 --storage "$BENCH_STORAGE" --runs-dir "$runs" --rows "$rows" \
    --progress lines "${@:2}" &
worker=$!
wait "$worker"
