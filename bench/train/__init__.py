"""Rollout, signals, score, select, loss, step."""
