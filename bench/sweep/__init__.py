"""Many experiments: TOML, Optuna, workers."""
