"""One experiment: plan, checks, training, evaluation, record."""
