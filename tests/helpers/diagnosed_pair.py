"""Pairs with the real tokenizer: breaking them, and what the doctor says of them."""

import json

from bench.core.config import Experiment, Runtime
from bench.run.doctor import check_pair

QUICK = {
    "thinking": "off", "prompts_per_step": 4, "max_new_tokens": 8, "steps": 1, "eval_items": 2,
}  # fmt: skip


def edit(path, **changes):
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps(values))


def edit_tokenizer(folder, change):
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def rename_token(folder, name, new):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / file).read_text()
        (folder / file).write_text(text.replace(f'"{name}"', f'"{new}"'))


def diagnosis(folder, **settings):
    """check name -> Check."""
    runtime = settings.pop("runtime", Runtime(device="cpu"))
    experiment = Experiment.parse({**QUICK, "pair": str(folder), **settings})
    return {check.name: check for check in check_pair(experiment, runtime)}


def states(found):
    return {name: check.state for name, check in found.items() if check.state != "pass"}
