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
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.backend.averaging import MovingAverage
from autocompress.backend.calibration import rebase_norms
from autocompress.backend.compressed import Compressed
from autocompress.backend.features import Original, attention_loss, find_taps, recorded
from autocompress.backend.learned_step import freeze_steps, learn_steps
from autocompress.backend.rounding import quantize
from autocompress.backend.schedule import Schedule
from autocompress.backend.teacher import Teacher, TrainingData
from autocompress.core.layer import Layer
from autocompress.core.plan import Receipt
from autocompress.errors import InputError, TrialError


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
    attention_weight: float = 0.0
    """Weight of the distance of attention maps from the original's (see `features`), added to the loss. Above 0 the
    original runs beside the student at every step, for its kept answers hold no features."""


def autocast(device: str) -> torch.autocast:
    """bfloat16 on a GPU. On CPUs float32: pruned networks were no faster in bfloat16 even with matrix units."""
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=device.startswith("cuda"))


def distill(start: Compressed, teacher: Teacher, data: TrainingData, recipe: Recipe, calibration: Tensor,
            seed: int, device: str = "cpu", should_stop: Callable[[], bool] | None = None,
            original: Original | None = None) -> Compressed:
    """Train `start` (changed in place and returned) towards the teacher's logits; quantised at the end.

    `original` is needed where `recipe.attention_weight` is above 0, and InputError says so. TrialError when the loss
    is not finite or `should_stop` says so. Deterministic for given inputs unless `recipe.seconds` cuts it short.
    """
    taps = _taps(recipe, original, start)
    rebase_norms(start.model, calibration)
    # Channels last: a fifth faster on CPUs for narrow networks, and what tensor cores want.
    model = start.model.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    steps = learn_steps(start)
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
        inputs = inputs.to(device)
        with autocast(device), recorded(model, taps) as maps:
            out = model(inputs)
        loss = _loss(out.float(), logits.to(device), targets[rows].to(device), recipe)
        if original is not None and taps:
            with autocast(device):
                loss = loss + recipe.attention_weight * attention_loss(maps, original, taps, inputs)
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
    start.model, start.weights, start.norms = model, {}, {}
    learned, start.latent = freeze_steps(model, steps, start.masks)
    start.receipts = [r for r in start.receipts if r.technique != "quantize"]
    start.receipts.append(Receipt("", "distill", {
        "steps": steps_done, "epochs": round(steps_done / per_epoch, 2), "plateau_at_step": schedule.plateau,
        **({"attention_of": [layer.name for layer in taps]} if taps else {})}))
    quantize(start, calibration, learned)
    return start


def _taps(recipe: Recipe, original: Original | None, start: Compressed) -> tuple[Layer, ...]:
    if not recipe.attention_weight:
        return ()
    if original is None or not recipe.attention_weight > 0:
        raise InputError("attention_weight must be 0, or above 0 where the original is at hand, but it is "
                         f"{recipe.attention_weight:g} {'without' if original is None else 'with'} an original")
    return find_taps(original.table, start.plan)


def _loss(student: Tensor, teacher: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    t = recipe.temperature
    soft = F.kl_div(F.log_softmax(student / t, 1), F.log_softmax(teacher / t, 1), log_target=True,
                    reduction="batchmean") * t * t
    if not recipe.label_weight:
        return soft  # whatever stands in place of labels is not looked at
    return (1 - recipe.label_weight) * soft + recipe.label_weight * F.cross_entropy(student, targets)


def _parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    decayed = [p for n, p in model.named_parameters() if p.dim() > 1]
    free = [p for n, p in model.named_parameters() if p.dim() <= 1]
    lr = recipe.learning_rate
    return [{"params": decayed, "weight_decay": recipe.weight_decay, "base": lr},
            {"params": free, "weight_decay": 0.0, "base": lr}]
