"""Many: TOML, Optuna, workers.

run_sweep   a file of experiments to its end: the way in
sweep_file  the TOML file, checked before anything runs, and its claims
source      its text, so that an error names a line
study       the points as Optuna trials, and a worker's way through them
tuning      equal trials for every rule, on a split that is never reported
tuning_result  what it found, written once and checked where it is read
storage     studies on a journal or a database
journal     optuna's journal with checksums
workers     processes with their share of the cores
launch      a run of its own under a launcher
"""
