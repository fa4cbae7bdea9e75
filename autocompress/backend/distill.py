"""Recovering accuracy by distillation from the original, quantisation-aware where weights are integers.

Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), with the learned quantisation steps of
Esser et al., "Learned Step Size Quantization" (ICLR 2020). Norms stay live: a per-channel factor behind a
quantised weight folds into its scales exactly, so training sees what is shipped.

The teacher answers once for each sample of a few fixed augmented views of the training set, and every candidate
and epoch reuses that: a small student would otherwise spend most of its time waiting for its teacher.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.backend.averaging import MovingAverage
from autocompress.backend.compress import Compressed, quantize, start_weight, step_of, weight_bits
from autocompress.backend.quantization import (
    QuantizedWeight,
    largest_level,
    per_channel,
    round_to_levels,
    spread,
    top_level,
)
from autocompress.backend.schedule import Schedule
from autocompress.backend.sparsify import Mask, Masked
from autocompress.core.plan import Receipt
from autocompress.errors import TrialError


class TrainingData(Protocol):
    """What distillation needs of the user's data."""

    def train_view(self, view: int, seed: int) -> Tensor:
        """All training inputs as stored, augmented the way view number `view` is; view 0 is plain."""

    def normalise(self, inputs: Tensor) -> Tensor:
        """Stored inputs → float32 network inputs."""

    @property
    def train_targets(self) -> Tensor:
        """Labels `(N,)`."""


@dataclass(frozen=True)
class Recipe:
    """How to distil. `epochs` counts passes over the training set, `seconds` ends it earlier if given."""

    epochs: float = 1.0
    seconds: float | None = None
    batch: int = 128
    learning_rate: float = 0.05
    weight_decay: float = 1e-4
    temperature: float = 4.0
    label_weight: float = 0.1
    """Share of the loss that is cross-entropy with the labels. At 0 they are not looked at, and may be anything."""
    charge_teacher: bool = True
    """Whether the teacher's time counts as `seconds`. Not where students are compared: the first would pay for all."""
    warm_up: float = 0.05
    """Share of the schedule in which the learning rate rises."""
    average: float = 0.0
    """Largest decay of the moving average of all parameters, learned scales too, that is kept in place of the last
    ones; 0 keeps the last. Behind a cosine that ends at zero there was nothing to gain."""
    patience: int = 5
    """Epochs without a lower loss after which a training comes to an early end, see `Schedule`; 0: never. One that a
    clock ends is left to it."""


class Teacher:
    """The original's logits for augmented views of the training set, kept in `folder` between processes.

    `answer` maps normalised inputs `(N, …)` to logits `(N, classes)`. Rows are asked for when a student first needs
    them: a short training never waits for a whole pass of the original.
    """

    VIEWS = 2

    def __init__(self, answer: Callable[[Tensor], Tensor], data: TrainingData, seed: int,
                 folder: Path | None) -> None:
        self._answer, self._data, self._seed, self._folder = answer, data, seed, folder
        self._inputs: dict[int, Tensor] = {}
        self._logits: dict[int, Tensor] = {}  # NaN where not known yet
        self.seconds = 0.0
        """Time spent on answers so far."""

    def batch(self, epoch: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised inputs `(B, …)` and teacher logits `(B, classes)` of `rows` `(B,)` in the view of `epoch`."""
        began = time.perf_counter()
        index = 1 + epoch % self.VIEWS
        if index not in self._inputs:
            self._inputs[index] = self._data.train_view(index, self._seed)
            self._logits[index] = self._stored(index)
        inputs = self._data.normalise(self._inputs[index][rows])
        known = self._logits[index]
        missing = known[rows, 0].isnan() if len(known) else torch.ones(len(rows), dtype=torch.bool)
        if missing.any():
            answers = self._answer(inputs[missing]).float().cpu()
            if not len(known):
                known = self._logits[index] = torch.full((len(self._inputs[index]), answers.shape[1]), torch.nan)
            known[rows[missing]] = answers
            self.seconds += time.perf_counter() - began
        return inputs, known[rows]

    def save(self) -> None:
        """Keep what was answered for later processes; what another process kept meanwhile is kept too."""
        for index, known in self._logits.items():
            path = self._path(index)
            if path is None or not len(known):
                continue
            stored = self._stored(index)
            if len(stored):
                known = torch.where(known.isnan(), stored, known)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{time.monotonic_ns()}.tmp")
            save_file({"logits": known.contiguous()}, part)
            part.replace(path)

    def _path(self, index: int) -> Path | None:
        return self._folder / f"teacher-{index}.safetensors" if self._folder else None

    def _stored(self, index: int) -> Tensor:
        path = self._path(index)
        if path is not None and path.is_file():
            stored: Tensor = load_file(path)["logits"]
            if len(stored) == len(self._inputs[index]):
                return stored
        return torch.empty(0, 0)


class _Round(torch.autograd.Function):
    """Nearest level times scale, in few passes over memory: at a few samples a step, memory is what costs.

    Backward: rounding is passed over inside the grid, clipped weights get no gradient; the scale gets
    level - ratio inside and the top level outside (LSQ, equation 3), times `damping`. `factors` on the scale are
    of the weight's shape, or 1.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, start: QuantizedWeight, factors: Tensor,
                damping: float) -> Tensor:
        step = per_channel(scale, weight) * factors
        ratio = weight / step
        levels = round_to_levels(ratio, start.bits, start.table)
        ctx.save_for_backward(ratio, levels, factors)
        ctx.top, ctx.damping = top_level(start), damping
        return levels * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (gradient,), (ratio, levels, factors) = gradients, ctx.saved_tensors
        inside = torch.ops.aten.hardtanh_backward(gradient, ratio, -ctx.top, ctx.top)
        by_weight = (gradient * levels).addcmul_(inside, ratio, value=-1)
        if factors.dim():
            by_weight *= factors
        return inside, by_weight.sum(tuple(range(1, by_weight.dim()))) * ctx.damping, None, None, None


class LearnedStep(nn.Module):
    """Parametrisation of a weight: rounded to its grid with a learned scale per output channel (LSQ).

    The grid itself stays: a codebook as it was fitted, and the factors of runs on the channel's scale. What is learned
    is the scale in units in which the levels are about as large as evenly spaced ones: a power of two, so exact.
    Its gradient is divided by the root of the number of weights it serves times the top level.
    """

    def __init__(self, start: QuantizedWeight) -> None:
        super().__init__()
        self._start = start
        largest = 1 if start.factors is None else 256
        self._unit = 2.0 ** round(math.log2(largest * top_level(start) / largest_level(start.bits)))
        self.scale = nn.Parameter(start.scale * self._unit)
        self._damping = 1 / math.sqrt(start.levels[0].numel() * largest_level(start.bits))
        if start.factors is None:
            self.register_buffer("factors", torch.ones(()), persistent=False)
        else:
            self.register_buffer("factors", spread(start.factors, start.group, start.levels), persistent=False)
        self.factors: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        """Float weight → the value it has in the file."""
        value: Tensor = _Round.apply(  # type: ignore[no-untyped-call]
            weight, self._scale(), self._start, self.factors, self._damping)
        return value

    @torch.no_grad()
    def quantized(self, weight: Tensor) -> QuantizedWeight:
        """The integers of the trained weight."""
        found = replace(self._start, scale=self._scale().cpu())
        levels = round_to_levels(weight.detach().cpu() / found.steps(), found.bits, found.table)
        return replace(found, levels=levels.to(torch.int8))

    def _scale(self) -> Tensor:
        return self.scale.abs().clamp_min(1e-8) / self._unit


def autocast(device: str) -> torch.autocast:
    """bfloat16 on a GPU. On CPUs float32: pruned networks were no faster in bfloat16 even with matrix units."""
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=device.startswith("cuda"))


def distill(start: Compressed, teacher: Teacher, data: TrainingData, recipe: Recipe, calibration: Tensor,
            seed: int, device: str = "cpu", should_stop: Callable[[], bool] | None = None) -> Compressed:
    """Train `start` (changed in place and returned) towards the teacher's logits; quantised at the end.

    TrialError when the loss is not finite or `should_stop` says so. Deterministic for given inputs unless
    `recipe.seconds` cuts it short.
    """
    # Channels last: a fifth faster on CPUs for narrow networks, and what tensor cores want.
    model = start.model.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    steps = _learn_steps(model, start)
    optimizer = torch.optim.SGD(_parameter_groups(model, recipe), lr=recipe.learning_rate, momentum=0.9,
                                nesterov=True, fused=True)
    generator = torch.Generator().manual_seed(seed)
    targets = data.train_targets
    per_epoch = math.ceil(len(targets) / recipe.batch)
    total = max(1, round(recipe.epochs * per_epoch))

    def clock() -> float:
        return time.perf_counter() - (0.0 if recipe.charge_teacher else teacher.seconds)

    average = MovingAverage(list(model.parameters()), recipe.average) if recipe.average else None
    schedule = Schedule(total, per_epoch, recipe.warm_up, recipe.patience if recipe.seconds is None else 0)
    began, steps_done = clock(), 0
    for step in range(total):
        if step % per_epoch == 0:
            order = torch.randperm(len(targets), generator=generator)
        rows = order[(step % per_epoch) * recipe.batch:(step % per_epoch + 1) * recipe.batch]
        if len(rows) < 2:
            continue  # BatchNorm cannot train on one sample
        if should_stop is not None and should_stop():
            raise TrialError("stopped by the user")
        done = schedule.done(step)
        if recipe.seconds is not None:
            done = max(done, (clock() - began) / recipe.seconds)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * schedule.factor(done)
        inputs, logits = teacher.batch(step // per_epoch, rows)
        with autocast(device):
            out = model(inputs.to(device))
        loss = _loss(out.float(), logits.to(device), targets[rows].to(device), recipe)
        if not torch.isfinite(loss):
            raise TrialError("nan: the loss of distillation is not finite")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        steps_done += 1
        if average is not None:
            average.update()
        schedule.see(step, float(loss.detach()))
    if average is not None:
        average.apply()
    teacher.save()
    model = model.cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    start.model, start.weights = model, {}
    learned, start.latent = _freeze(model, steps, start.masks)
    start.receipts = [r for r in start.receipts if r.technique != "quantize"]
    start.receipts.append(Receipt("", "distill", {
        "steps": steps_done, "epochs": round(steps_done / per_epoch, 2), "plateau_at_step": schedule.plateau}))
    quantize(start, calibration, learned)
    return start


def _loss(student: Tensor, teacher: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    t = recipe.temperature
    soft = F.kl_div(F.log_softmax(student / t, 1), F.log_softmax(teacher / t, 1), log_target=True,
                    reduction="batchmean") * t * t
    if not recipe.label_weight:
        return soft  # whatever stands in place of labels is not looked at
    return (1 - recipe.label_weight) * soft + recipe.label_weight * F.cross_entropy(student, targets)


def _learn_steps(model: nn.Module, start: Compressed) -> dict[str, LearnedStep]:
    steps = {}
    for name, bits in weight_bits(model, start.plan).items():
        if bits <= 8:
            module = model.get_submodule(name)
            assert isinstance(module.weight, Tensor)
            kept = start.masks[name].kept if name in start.masks else None
            known = start.weights.get(name) or start_weight(
                module.weight.detach().cpu(), step_of(name, start.plan).args, kept=kept)
            if name in start.latent:
                module.weight.data.copy_(start.latent[name])
            steps[name] = LearnedStep(known).to(module.weight.device)
            parametrize.register_parametrization(module, "weight", steps[name], unsafe=True)
    for name, mask in start.masks.items():  # behind the rounding, whose grid may have no zero
        module = model.get_submodule(name)
        assert isinstance(module.weight, Tensor)
        parametrize.register_parametrization(module, "weight", Masked(mask).to(module.weight.device))
    return steps


def _freeze(model: nn.Module, steps: dict[str, LearnedStep],
            masks: dict[str, Mask]) -> tuple[dict[str, QuantizedWeight], dict[str, Tensor]]:
    """Integers, and the float weights that they were rounded from, by module name."""
    learned, latent = {}, {}
    for name, step in steps.items():
        module = model.get_submodule(name)
        original = module.parametrizations.weight.original.detach().clone()  # type: ignore[union-attr, operator]
        learned[name], latent[name] = step.quantized(original), original
        if name in masks:
            learned[name] = replace(learned[name], levels=learned[name].levels * masks[name].kept)
    for name in {*steps, *masks}:
        parametrize.remove_parametrizations(model.get_submodule(name), "weight", leave_parametrized=True)
    return learned, latent


def _parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    decayed = [p for n, p in model.named_parameters() if p.dim() > 1]
    free = [p for n, p in model.named_parameters() if p.dim() <= 1]
    lr = recipe.learning_rate
    return [{"params": decayed, "weight_decay": recipe.weight_decay, "base": lr},
            {"params": free, "weight_decay": 0.0, "base": lr}]
