"""One experiment: plan, checks, training, evaluation, record.

run_experiment  from an experiment to its record: the way in
plan            names looked up, values settled, the run's identity
preflight       checks before training; doctor: those that run the teacher, too
evaluations     models scored on tasks, baselines kept by content
shipped         scores of the embedded pairs before training, which ship beside them
trained_model   trained models on disk: saved, found, scored again, merged
memory          what a run needs, from shapes
"""
