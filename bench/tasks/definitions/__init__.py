"""lm-eval task files: one YAML file per task, named after it; `_` begins a shared part."""
