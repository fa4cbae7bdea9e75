"""Accuracy won back unit by unit from a few inputs without labels: no training set is needed.

Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction" (ICLR 2021), with the
learned steps of Esser et al. (ICLR 2020) in place of learned rounding and the plain squared error; and Li et al.,
"Blockwisely Supervised Neural Architecture Search with Knowledge Distillation" (CVPR 2020) for students whose units
are narrower. Each unit reads what the student's units before it make, so that it learns to undo their errors too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from autocompress.backend.graph.partition import Unit, find_units, widest_elements
from autocompress.backend.network.compressed import Compressed
from autocompress.backend.quantize.rounding import quantize
from autocompress.backend.statistics.calibration import norm_inputs
from autocompress.backend.training.channels_last import channels_last
from autocompress.backend.training.feature_distillation import Original, channel_axis, inputs_left
from autocompress.backend.training.lsq import freeze_steps, learn_steps
from autocompress.core.plan import Receipt
from autocompress.errors import TrialError

BATCH = 32
PASS = 128
"""Samples at a time where nothing is learned."""
LEARNING_RATE = 0.01
"""Of a parameter's own root mean square, a step."""
NEGLIGIBLE = 1e-6
"""Relative squared error below which there is nothing to mend, and gradients are noise."""
MOST_BYTES = 2**29
"""Of the widest tensor between units, for all samples that are used: fewer are where it would be larger."""


def reconstruct_blocks(start: Compressed, original: Original, calibration: Tensor, steps: int, seed: int,
                       device: str = "cpu", seconds: float | None = None,
                       should_stop: Callable[[], bool] | None = None) -> Compressed:
    """Train `start` (changed in place and returned) until each unit gives what the original's gives, on `calibration`
    inputs `(N, …)`; quantised at the end.

    At most `steps` optimiser steps a unit; `seconds` (if given) bound all of them, and what a unit leaves goes to
    those after it. A unit that did not get nearer keeps its parameters. TrialError when an error is not finite or
    `should_stop` says so. Deterministic for given inputs without `seconds`.
    """
    began = time.perf_counter()
    model = channels_last(start.model.to(device)).eval()
    units = find_units(model, original.model, original.table)
    learned = learn_steps(start)
    rows = _affordable(units, calibration, device)
    student = wanted = calibration[torch.randperm(
        len(calibration), generator=torch.Generator().manual_seed(seed))[:rows]].to(device)
    errors: dict[str, tuple[float, float]] = {}
    seen: set[int] = set()
    for i, unit in enumerate(units):
        wanted = _passed(unit.original, wanted)
        fit = _Fit(unit, student, _remaining(wanted, unit, start, original), seen)
        until = math.inf
        if seconds is not None:
            now = time.perf_counter()
            until = now + (began + seconds - now) / (len(units) - i)
        errors[unit.reader or "output"] = fit.run(steps, seed + i, until, should_stop)
        student = fit.made
    model.zero_grad(set_to_none=True)
    model = model.cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    start.model, start.weights = model, {}
    integers, start.latent = freeze_steps(model, learned, start.masks)
    start.receipts = [receipt for receipt in start.receipts if receipt.technique != "quantize"]
    start.receipts.append(Receipt("", "blockwise", {
        "steps": steps, "samples": rows,
        "errors": {name: [float(f"{value:.3g}") for value in pair] for name, pair in errors.items()}}))
    start.norms = norm_inputs(model, calibration)  # they stay as they were trained
    quantize(start, calibration, integers)
    return start


class _Fit:
    """One unit on its way to `wanted`, from the inputs `given`. `made` is what it makes of them."""

    def __init__(self, unit: Unit, given: Tensor, wanted: Tensor, seen: set[int]) -> None:
        self._unit, self._given, self._wanted = unit.student, given, wanted
        energy = float(wanted.square().mean())
        self._energy = energy if energy > 0 else 1.0
        # What two units share is the first one's: a later one would spoil it.
        self._parameters = [p for p in unit.student.parameters() if p.requires_grad and id(p) not in seen]
        seen.update(id(p) for p in self._parameters)
        self.made = _passed(self._unit, given)

    def run(self, steps: int, seed: int, until: float, should_stop: Callable[[], bool] | None) -> tuple[float, float]:
        """Train; relative squared errors before and after."""
        before = self._error(self.made, self._wanted)
        if not math.isfinite(before):
            raise TrialError("nan: what a unit of the network makes is not finite")
        if before < NEGLIGIBLE or not self._parameters:
            return before, before
        kept = [p.detach().clone() for p in self._parameters]
        self._train(steps, torch.Generator().manual_seed(seed), until, should_stop)
        made = _passed(self._unit, self._given)
        after = self._error(made, self._wanted)
        if after < before:
            self.made = made
            return before, after
        with torch.no_grad():
            for parameter, value in zip(self._parameters, kept, strict=True):
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
                order = torch.randperm(len(self._given), generator=generator)
            rows, order = order[:BATCH].to(self._given.device), order[BATCH:]
            loss = (self._unit(self._given[rows]) - self._wanted[rows]).square().mean() / self._energy
            if not torch.isfinite(loss):
                raise TrialError("nan: the error of a unit of the network is not finite")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    def _error(self, made: Tensor, wanted: Tensor) -> float:
        return float((made - wanted).square().mean()) / self._energy


def _passed(unit: nn.Module, given: Tensor) -> Tensor:
    """All that a unit makes. It gets copies: some add to what they read in place."""
    with torch.no_grad():
        return torch.cat([unit(batch.clone()) for batch in torch.split(given, PASS)])


def _affordable(units: tuple[Unit, ...], calibration: Tensor, device: str) -> int:
    """Number of samples whose widest tensor stays below `MOST_BYTES`, but a batch in any case."""
    widest = widest_elements(units, calibration[:1].to(device))
    return min(len(calibration), max(BATCH, MOST_BYTES // (4 * widest)))


def _remaining(wanted: Tensor, unit: Unit, start: Compressed, original: Original) -> Tensor:
    """The channels of what the original makes that the student still has."""
    if not unit.reader:
        return wanted
    layer = original.table.by_name[unit.reader]
    left = inputs_left(layer, start, original)
    return wanted if left is None else wanted.index_select(channel_axis(layer), left.to(wanted.device))
