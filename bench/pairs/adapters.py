"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft, put inside the model's linear layers.

The model stays the Qwen class it is; its own weights are frozen, and W x becomes
W x + (alpha / rank) B A x. A is random, keyed by the experiment's seed; B is 0, so that an
untrained adapter changes nothing.
"""

import json
import warnings
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from bench.core.config import Experiment
from bench.core.errors import ConfigError
from bench.core.randomness import hash64

CONFIG_FILE = "adapter_config.json"


def check_peft() -> None:
    """Raise ConfigError where peft is not installed."""
    if find_spec("peft") is None:
        raise ConfigError('lora: peft is not installed: pip install "opd-bench[lora]"')


def add_adapter(model: Any, experiment: Experiment, revision: str | None = None) -> None:
    """Freeze the model and put the experiment's adapters in; `revision` is that of its files.

    Raises ConfigError where the model has none of the named layers.
    """
    check_peft()
    from peft import LoraConfig

    config = LoraConfig(
        r=experiment.lora,
        lora_alpha=experiment.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=list(experiment.lora_targets),
        revision=revision,
        task_type="CAUSAL_LM",
    )
    model.requires_grad_(False)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash64(experiment.seed, "lora"))
            model.add_adapter(config)
    except ValueError as error:
        raise ConfigError(
            f"lora_targets: {type(model).__name__} does not take them: {error}"
        ) from (error)
    found = model.peft_config["default"]
    base = Path(str(found.base_model_name_or_path))
    found.base_model_name_or_path = str(base.absolute() if base.is_dir() else base)
    model.eval()


def weight_sharing_copy(model: Any) -> Any:
    """The same model a second time, on the same parameters: those of a copy cost no memory.

    What is put inside one later is not in the other. The copy of a student that then gets adapters
    is that student with its adapters off.
    """
    return deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def is_adapter(path: str) -> bool:
    """Whether a folder holds an adapter and no model of its own."""
    return (Path(path) / CONFIG_FILE).is_file() and not (Path(path) / "config.json").is_file()


def base_of(path: str) -> tuple[str, str | None]:
    """(folder or hub id, revision) of the model that an adapter belongs on."""
    try:
        config = json.loads((Path(path) / CONFIG_FILE).read_text(encoding="utf-8"))
        base, revision = config["base_model_name_or_path"], config.get("revision")
        if not (isinstance(base, str) and base and isinstance(revision, str | None)):
            raise ValueError(f"base_model_name_or_path {base!r}, revision {revision!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"adapter {path!r}: {CONFIG_FILE} cannot be read: {error}") from error
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise ConfigError(
            f"adapter {path!r}: its base model {base!r} is not here; name the right folder as "
            f"base_model_name_or_path in {CONFIG_FILE}"
        )
    return base, revision


def attach(model: Any, path: str, *, merge: bool) -> Any:
    """The base model with the adapter of a folder; merged, it is a plain model again.

    Raises ConfigError for an adapter that does not load, and for one whose tensors are not those
    that its settings ask for: peft would leave the model as it is, or fill in random ones.
    """
    check_peft()
    from peft import PeftModel

    try:
        if merge:
            with warnings.catch_warnings():
                # peft 0.21 asks transformers 5.23 for a property by its deprecated name.
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
                warnings.filterwarnings("ignore", "Found missing adapter keys")  # refused below
                found = PeftModel.from_pretrained(model, path)
            _check_applied(found, path)
            model = found.merge_and_unload(safe_merge=True)  # type: ignore[operator]
            model.requires_grad_(True)
        else:
            model.load_adapter(path)
            _check_applied(model, path)
    except ConfigError:
        raise
    except Exception as error:  # peft and safetensors raise anything for a stranger's files
        first = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"adapter {path!r} does not load: {first}") from error
    return model.eval()


def _check_applied(model: Any, path: str) -> None:
    """Raise ConfigError where the adapter's file lacks a tensor that the model now has of it, or
    holds another.
    """
    from peft import get_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    wanted = {_bare(name) for name in get_peft_model_state_dict(model)}
    given = {_bare(name) for name in load_peft_weights(path, device="cpu")}
    for names, what in ((wanted - given, "lacks"), (given - wanted, "holds, and no layer takes,")):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
            raise ConfigError(
                f"adapter {path!r} does not fit: its file {what} {len(names)} tensors ({shown})"
            )


def _bare(name: str) -> str:
    """A tensor's name without what peft puts around the model."""
    return name.removeprefix("base_model.model.")
