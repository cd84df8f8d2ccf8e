"""The processes of one run: what each does, what they share, and how a model's use reaches all.

A run on one process is the special case ALONE. With several, each samples, scores and trains on its
own rows of the batch (contiguous, in rank order); statistics of tokens are joined, so that every
process scores and selects over the whole batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import (
    broadcast,
    broadcast_object_list,
    gather,
    gather_object,
    pad_across_processes,
    reduce,
)
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from bench.core.config import Experiment, Runtime
from bench.core.errors import BenchError, Stopped
from bench.core.progress import launched

T = TypeVar("T")


class Worked(nn.Module):
    """A model whose forward pass is any function of it.

    DDP and FSDP act around a module's forward; this makes sampling, hidden states and the chunked
    loss one each: `run(model, work)`.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    @property
    def _no_split_modules(self) -> Any:
        """The classes that FSDP shards one by one."""
        return getattr(self.model, "_no_split_modules", None)

    def tie_weights(self) -> None:
        """accelerate asks for this after it has moved a model."""
        self.model.tie_weights()  # type: ignore[operator]

    def forward(self, work: Callable[[Any], T]) -> T:
        return work(self.model)


def run(model: nn.Module, work: Callable[[Any], T]) -> T:
    """work(the model itself), inside the forward pass of whatever the model is wrapped in."""
    if isinstance(model, Worked | DistributedDataParallel):
        return model(work)
    return work(model)


def inner(model: nn.Module) -> Any:
    """The model itself, for what needs no parameters: its configuration, its generation config."""
    module = model.module if isinstance(model, DistributedDataParallel) else model
    return module.model if isinstance(module, Worked) else module


def is_sharded(model: nn.Module) -> bool:
    """Are its parameters gathered layer by layer, so that all processes must use it together?"""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def reshard(model: nn.Module) -> None:
    """Parameters that a forward pass without gradient left gathered, on their processes again."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def shard(model: nn.Module, **options: Any) -> Worked:
    """A model sharded over all processes with torch's FSDP2, block by block; in place."""
    from torch.distributed.fsdp import fully_shard

    blocks = set(getattr(model, "_no_split_modules", None) or ())
    for module in model.modules():
        if type(module).__name__ in blocks:
            fully_shard(module, **options)
    worked = Worked(model)
    fully_shard(worked, **options)
    return worked


def full_number(value: Any) -> float:
    """A number that may lie on several processes (a norm over sharded gradients)."""
    return float(value.full_tensor() if isinstance(value, DTensor) else value)


class Processes:
    """This process among those of the run. Every method but `rows` is called by all of them."""

    def __init__(self, accelerator: Accelerator | None = None):
        self._accelerator = accelerator
        self.size = accelerator.num_processes if accelerator else 1
        self.index = accelerator.process_index if accelerator else 0

    @property
    def precision(self) -> str:
        """Of the forward passes: `no` (float32) or `bf16`."""
        return self._accelerator.mixed_precision if self._accelerator else "no"

    def autocast(self) -> AbstractContextManager[Any]:
        """Forward passes inside are in that precision."""
        return self._accelerator.autocast() if self._accelerator else nullcontext()

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def rows(self, count: int) -> slice:
        """The rows of a batch of `count` that are this process's: sizes differ by one at most."""
        return slice(count * self.index // self.size, count * (self.index + 1) // self.size)

    def join(self, own_N: Tensor) -> Tensor:
        """Each process's values one after another, (N, ...) -> (sum of N, ...), for all."""
        if self.size == 1:
            return own_N
        counts = gather_object([own_N.shape[0]])
        is_bool = own_N.dtype == torch.bool
        padded_N = pad_across_processes(own_N.to(torch.uint8) if is_bool else own_N)
        joined_PN = cast(Tensor, gather(padded_N[None]))
        joined_N = torch.cat([joined_PN[p, :n] for p, n in enumerate(counts)])
        return joined_N.bool() if is_bool else joined_N

    def join_objects(self, own: Sequence[T]) -> list[T]:
        """Each process's objects one after another, for all."""
        return list(own) if self.size == 1 else gather_object(list(own))

    def most(self, number: int) -> int:
        """The largest of the processes' numbers."""
        return max(self.join_objects([number]))

    def any(self, flag: bool) -> bool:
        """Does any process say so?"""
        if self._accelerator is None or self.size == 1:
            return flag
        told = torch.tensor([float(flag)], device=self._accelerator.device)
        return bool(cast(Tensor, reduce(told)) > 0)

    def of_main(self, value: Tensor) -> Tensor:
        """The main process's tensor, for all: rounding on other devices decides nothing."""
        if self.size == 1:
            return value
        return cast(Tensor, broadcast(value.contiguous().clone()))

    def lead(self, work: Callable[[], T]) -> T:
        """What `work` returns on the main process, for all; or its error, raised by all."""
        if self.size == 1:
            return work()
        told: list[Any] = [None, None]
        error: BaseException | None = None
        if self.is_main:
            try:
                told[0] = work()
            except BenchError as raised:
                told[1] = raised
            except BaseException as raised:
                error, told[1] = raised, BenchError(f"{type(raised).__name__}: {raised}")
            if told[1] is not None:
                _of(told[1], 0)
        broadcast_object_list(told)
        if told[1] is not None:
            raise error or _of(told[1], 0)
        return told[0]

    def together(self, work: Callable[[], T]) -> T:
        """What `work` returns here; where it fails on any process, an error on all."""
        if self.size == 1:
            return work()
        done: T | None = None
        error: Exception | None = None
        try:
            done = work()
        except Exception as raised:
            error = raised
        own = None if error is None else (self.index, f"{type(error).__name__}: {error}")
        failed = [found for found in self.join_objects([own]) if found is not None]
        if error is not None:
            raise error
        if failed:
            index, message = failed[0]
            raise _of(BenchError(f"process {index}: {message}"), index)
        return cast(T, done)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """An error inside says whose it is: the command line prints those of every process."""
        try:
            yield
        except Stopped:
            raise
        except BenchError as error:
            if self.size > 1 and error.process is None:
                _of(error, self.index)
            raise

    def accumulating(self, model: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        """Around a pass forward and backward: DDP exchanges gradients in a step's last only."""
        if is_last or not isinstance(model, DistributedDataParallel):
            return nullcontext()
        return model.no_sync()


ALONE = Processes()


def _of(error: BenchError, process: int) -> BenchError:
    """The error, as that of one process; pickling an error does not keep it."""
    error.process = process
    return error


def leave_group() -> None:
    """Leave the processes that were launched together: the last thing that each of them does.

    An interpreter that ends inside the group may abort in the group's own threads, after all is
    written, and its launcher then reports a failure.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def make_accelerator(experiment: Experiment, runtime: Runtime) -> Accelerator:
    """Device, precision and processes.

    Raises BenchError for a device that is not there, where a launcher started more processes than
    found each other (each would train a run of its own), and where it divides each loss.
    """
    mixed = "bf16" if experiment.dtype == "bfloat16" else "no"
    # accelerate holds the precision and the device of the first Accelerator for the whole process,
    # and knows no second one under FSDP. Processes that have found each other stay together.
    AcceleratorState._reset_state(reset_partial_state=True)
    # No model here has buffers that training changes; each forward pass would send them.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(
        mixed_precision=mixed, cpu=runtime.device == "cpu", kwargs_handlers=[ddp]
    )
    if accelerator.num_processes != launched():
        raise BenchError(
            f"{launched()} processes were launched, and accelerate joins "
            f"{accelerator.num_processes}: without GPUs, launch with ACCELERATE_USE_CPU=true "
            f"accelerate launch --multi_gpu --num_processes {launched()}"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise BenchError(
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS: "
            f"{accelerator.gradient_accumulation_steps} is not accepted: a step's gradient is "
            "already summed over its micro-batches (--micro-batch); leave it out of the launch"
        )
    if runtime.device not in ("auto", accelerator.device.type):
        raise BenchError(
            f"device: {runtime.device!r} is not available here: {accelerator.device.type}"
        )
    if accelerator.device.type == "cuda":
        # cuDNN makes a plan for each length that it has not seen, and here nearly every pass has
        # one; torch's own attention needs none.
        torch.backends.cuda.enable_cudnn_sdp(False)
    return accelerator
