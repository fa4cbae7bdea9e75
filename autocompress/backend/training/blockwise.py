"""Block-wise reconstruction (BRECQ): units of a network fitted one after another to the original's outputs.

A few inputs without labels suffice; no training set is needed. Each unit reads the outputs of the student's units
before it, so that it learns to undo their errors too.

Sources: Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction" (ICLR 2021), with
the learned steps of Esser et al. (ICLR 2020) in place of learned rounding and the plain squared error; Li et al.,
"Blockwisely Supervised Neural Architecture Search with Knowledge Distillation" (CVPR 2020) for students whose units
are narrower.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from autocompress.backend.graph.partition import Unit, find_units, widest_elements
from autocompress.backend.network.compressed import Compressed, without_rounding
from autocompress.backend.quantize.rounding import quantize
from autocompress.backend.statistics.calibration import norm_inputs
from autocompress.backend.training.channels_last import TRIED, channels_last
from autocompress.backend.training.feature_distillation import Original, channel_axis, inputs_left
from autocompress.backend.training.lsq import freeze_steps, learn_steps
from autocompress.core.plan import Receipt
from autocompress.errors import TrialError
from autocompress.tensors.named import Inputs, joined

# Samples of one training step.
BATCH = 32
# Samples of one forward pass without gradients.
INFERENCE_BATCH = 128
# Learning rate of a parameter, as a share of the parameter's root mean square.
LEARNING_RATE = 0.01
# Relative squared error below which a unit is not trained, because its gradients are noise.
NEGLIGIBLE = 1e-6
# Largest size of the widest tensor between units, over all samples; wider networks are fitted to fewer samples.
MOST_BYTES = 2**29


def reconstruct_blocks(start: Compressed, original: Original, calibration: Inputs, steps: int, seed: int,
                       device: str = "cpu", seconds: float | None = None,
                       should_stop: Callable[[], bool] | None = None) -> Compressed:
    """Fit each unit of a compressed network to the same unit of the original, then quantise.

    A unit whose error does not fall keeps its parameters. Deterministic for given inputs without `seconds`.

    Args:
        start: The network to fit; it is changed in place.
        original: The network that it was compressed from.
        calibration: Normalised inputs `(N, …)`.
        steps: The largest number of optimiser steps a unit.
        seed: The seed of the order of samples.
        device: The device to train on.
        seconds: Time for all units; what one unit leaves goes to the units after it.
        should_stop: Asked before each step.

    Returns:
        `start`.

    Raises:
        TrialError: An error is not finite, or `should_stop` said so.
    """
    began = time.perf_counter()
    model = channels_last(start.model.to(device), calibration[:TRIED].to(device)).eval()
    units = find_units(model, original.model, original.table)
    lsq_steps = learn_steps(start)
    rows = _sample_count(units, calibration, device)
    inputs = targets = calibration[torch.randperm(
        len(calibration), generator=torch.Generator().manual_seed(seed))[:rows]].to(device)
    errors: dict[str, tuple[float, float]] = {}
    seen: set[int] = set()
    for i, unit in enumerate(units):
        targets = _outputs(unit.original, targets)
        fit = _UnitFit(unit, inputs, _channels_left(targets, unit, start, original), seen)
        until = math.inf
        if seconds is not None:
            now = time.perf_counter()
            until = now + (began + seconds - now) / (len(units) - i)
        errors[unit.reader or "output"] = fit.run(steps, seed + i, until, should_stop)
        inputs = fit.outputs
    model.zero_grad(set_to_none=True)
    model = model.cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    start.model, start.weights = model, {}
    integers, start.latent = freeze_steps(model, lsq_steps, start.masks)
    start.receipts = without_rounding(start.receipts)
    start.receipts.append(Receipt("", "blockwise", {
        "steps": steps, "samples": rows,
        "errors": {name: [float(f"{value:.3g}") for value in pair] for name, pair in errors.items()}}))
    start.norms = norm_inputs(model, calibration)  # the norms keep their trained statistics
    quantize(start, calibration, integers)
    return start


class _UnitFit:
    """The fit of one unit, by Adam on the squared error.

    Attributes:
        outputs: The unit's outputs for the inputs, under the parameters that it has.
    """

    def __init__(self, unit: Unit, inputs: Tensor, targets: Tensor, seen: set[int]) -> None:
        self._unit, self._inputs, self._targets = unit.student, inputs, targets
        energy = float(targets.square().mean())
        self._energy = energy if energy > 0 else 1.0
        # Parameters that two units share are fitted with the first: a later fit would undo it.
        self._parameters = [p for p in unit.student.parameters() if p.requires_grad and id(p) not in seen]
        seen.update(id(p) for p in self._parameters)
        self.outputs = _outputs(self._unit, inputs)

    def run(self, steps: int, seed: int, until: float, should_stop: Callable[[], bool] | None) -> tuple[float, float]:
        """Train, and return the relative squared errors before and after."""
        before = self._error(self.outputs, self._targets)
        if not math.isfinite(before):
            raise TrialError("nan: what a unit of the network makes is not finite")
        if before < NEGLIGIBLE or not self._parameters:
            return before, before
        initial = [p.detach().clone() for p in self._parameters]
        self._train(steps, torch.Generator().manual_seed(seed), until, should_stop)
        outputs = _outputs(self._unit, self._inputs)
        after = self._error(outputs, self._targets)
        if after < before:
            self.outputs = outputs
            return before, after
        with torch.no_grad():
            for parameter, value in zip(self._parameters, initial, strict=True):
                parameter.copy_(value)
        return before, before

    def _train(self, steps: int, generator: torch.Generator, until: float,
               should_stop: Callable[[], bool] | None) -> None:
        rates = [LEARNING_RATE * max(float(p.detach().square().mean().sqrt()), 1e-3) for p in self._parameters]
        optimizer = torch.optim.Adam([{"params": [p], "lr": rate}
                                      for p, rate in zip(self._parameters, rates, strict=True)], betas=(0.9, 0.99))
        began, order = time.perf_counter(), torch.empty(0, dtype=torch.long)
        for step in range(steps):
            if should_stop is not None and should_stop():
                raise TrialError("stopped when the search was")
            done = step / steps
            if until < math.inf:
                done = max(done, (time.perf_counter() - began) / max(until - began, 1e-9))
            if done >= 1:
                break
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * done))
            if not len(order):
                order = torch.randperm(len(self._inputs), generator=generator)
            rows, order = order[:BATCH].to(self._inputs.device), order[BATCH:]
            loss = (joined(self._unit(self._inputs[rows])) - self._targets[rows]).square().mean() / self._energy
            if not torch.isfinite(loss):
                raise TrialError("nan: the error of a unit of the network is not finite")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def _error(self, outputs: Tensor, targets: Tensor) -> float:
        return float((outputs - targets).square().mean()) / self._energy


def _outputs(unit: nn.Module, inputs: Tensor) -> Tensor:
    """Return a unit's outputs. It reads copies, because some units add to their input in place."""
    with torch.no_grad():
        return torch.cat([joined(unit(batch.clone())) for batch in torch.split(inputs, INFERENCE_BATCH)])


def _sample_count(units: tuple[Unit, ...], calibration: Inputs, device: str) -> int:
    """Count the samples whose widest tensors stay below `MOST_BYTES` together; a batch at least."""
    widest = widest_elements(units, calibration[:1].to(device))
    return min(len(calibration), max(BATCH, MOST_BYTES // (4 * widest)))


def _channels_left(targets: Tensor, unit: Unit, start: Compressed, original: Original) -> Tensor:
    """Select the channels of the original's outputs that the student still has."""
    if not unit.reader:
        return targets
    layer = original.table.by_name[unit.reader]
    channels = inputs_left(layer, start, original)
    return targets if channels is None else targets.index_select(channel_axis(layer), channels.to(targets.device))
