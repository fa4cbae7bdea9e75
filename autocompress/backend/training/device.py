"""Training on a device: how tensors reach it, and what is done where its memory does not suffice."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from autocompress.errors import TrialError, reason_of
from autocompress.tensors.named import Inputs, NamedTensors

log = logging.getLogger(__name__)

# Fewer samples are not halved: BatchNorm cannot train on one.
LEAST_HALVED = 4


def is_gpu(device: str) -> bool:
    """Whether a torch device is a GPU."""
    return torch.device(device).type == "cuda"


def on_device(tensors: Inputs, device: str) -> Inputs:
    """Return tensors on a device; to a GPU they go through pinned memory, so that the copy does not wait for what is
    computed there. A batch of the user's, which is targets of such a task, moves as it can."""
    if is_gpu(device) and isinstance(tensors, NamedTensors):
        return tensors.each(Tensor.pin_memory).to(device, non_blocking=True)
    if is_gpu(device) and isinstance(tensors, Tensor):
        return tensors.pin_memory().to(device, non_blocking=True)
    return tensors.to(device)


class Halves:
    """Backward passes of training steps: of whole batches, until the memory of the device does not suffice, and of both
    halves of each from then on. Gradients, steps and their number stay those of the whole batch; only statistics of
    norms are of halves.

    Args:
        device: a torch device.
    """

    def __init__(self, device: str) -> None:
        self._device, self._parts = device, 1

    def backward(self, rows: int, loss_of: Callable[[slice], Tensor], begin: Callable[[], None]) -> float:
        """Return the loss of a batch of so many rows, with gradients added up.

        Args:
            rows: samples of the batch.
            loss_of: the mean loss of some of them.
            begin: sets gradients to zero.

        Raises:
            TrialError: where half of a batch does not fit, or the loss is not finite.
        """
        while True:
            begin()
            try:
                return sum(self._pass(part, rows, loss_of) for part in self._slices(rows))
            except torch.OutOfMemoryError as error:
                if self._parts > 1 or rows < LEAST_HALVED:
                    raise TrialError(f"a step needs more memory than {self._device} has, even with half the batch "
                                     f"({-(-rows // 2)} samples): {reason_of(error)}") from error
            # Behind the handler nothing of the pass is alive any more.
            self._parts = 2
            log.info("the memory of %s does not suffice for a batch of %d samples: going on with halves", self._device,
                     rows)
            torch.cuda.empty_cache()

    def _slices(self, rows: int) -> list[slice]:
        if self._parts == 1 or rows < LEAST_HALVED:
            return [slice(0, rows)]
        return [slice(0, rows // 2), slice(rows // 2, rows)]

    @staticmethod
    def _pass(part: slice, rows: int, loss_of: Callable[[slice], Tensor]) -> float:
        loss = loss_of(part) * ((part.stop - part.start) / rows)
        if not torch.isfinite(loss):
            raise TrialError("nan: the loss of distillation is not finite")
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())
