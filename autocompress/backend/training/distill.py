"""Recovery by distillation from the original, quantisation-aware where weights are integers.

Norms stay live: a per-channel factor behind a quantised weight folds into its scales exactly, so training sees what is
shipped. Adam's steps are in proportion to the size of what they change: one rate serves factors of norms, learned
scales and weights of layers of any width. Decay of weights changed nothing, so there is none.

Sources: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015); Esser et al., "Learned Step Size
Quantization" (ICLR 2020); Kingma & Ba, "Adam" (ICLR 2015); Shazeer & Stern, "Adafactor" (ICML 2018), for the size of
steps.

The teacher answers once for each sample of a few fixed augmented views of the training set, and every candidate
and epoch reuses that: a small student would otherwise spend most of its time waiting for its teacher.
"""

from __future__ import annotations

import functools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autocompress.backend.network.compressed import Compressed, without_rounding
from autocompress.backend.quantize.rounding import quantize
from autocompress.backend.statistics.calibration import rebase_norms
from autocompress.backend.training.averaging import MovingAverage
from autocompress.backend.training.backtracking import Backtracking
from autocompress.backend.training.blockwise import reconstruct_blocks
from autocompress.backend.training.channels_last import TRIED, channels_last
from autocompress.backend.training.conv_as_matmul import products_on_small_maps
from autocompress.backend.training.device import Halves, on_device
from autocompress.backend.training.feature_distillation import (
    Original,
    Projections,
    attention_loss,
    find_hook_points,
    recorded,
    wanted_features,
)
from autocompress.backend.training.lsq import freeze_steps, learn_steps
from autocompress.backend.training.recipe import Recipe
from autocompress.backend.training.schedule import Schedule
from autocompress.backend.training.teacher import Teacher, TrainingData
from autocompress.backend.training.training_mode import train_as_shipped
from autocompress.core.allocator import bound_memory, release_memory
from autocompress.core.cancellation import checkpoint
from autocompress.core.layer import Layer, LayerTable
from autocompress.core.plan import Plan, Receipt
from autocompress.errors import AutocompressError, InputError, TrialError
from autocompress.quantities import format_seconds
from autocompress.tensors.likelihood import CATEGORICAL, Likelihood
from autocompress.tensors.named import Inputs

# Divergence from the teacher, as a share of the spread of its answers, from which a student counts as far.
FAR = 0.25
# Share of labels in the loss of a student that answers as its teacher does, and the share of the learning rate that it
# is trained at.
NEAR_LABEL_WEIGHT, LEAST_PACE = 0.5, 0.25
# Sizes of weights and of vectors that steps take at least: biases begin near zero, and have far to go.
LEAST_WEIGHT, LEAST_VECTOR = 1e-3, 0.05


def autocast(device: str) -> torch.autocast:
    """bfloat16 on a GPU and on a CPU with instructions for it, where a step takes 0.5 to 0.8 of the time."""
    kind = device.split(":")[0]
    capabilities = torch.cpu.get_capabilities()
    fast = kind == "cuda" or (kind == "cpu" and any(capabilities.get(f"{unit}_bf16") for unit in ("amx", "avx512")))
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=fast)


def check_recipe(recipe: Recipe, original: LayerTable | None, inputs: Inputs) -> None:
    """InputError when a network of these facts, or one without an original at hand, cannot be trained so on `inputs`
    `(N, …)`."""
    if recipe.mixup and not inputs.is_floating_point():
        raise InputError(f"mixup must be 0 for inputs that cannot be mixed, such as tokens, but it is {recipe.mixup:g}")
    if original is None and (recipe.compares_features or recipe.block_steps):
        raise InputError("attention_weight, feature_weight and block_steps must be 0 without the original, but are "
                         f"{recipe.attention_weight:g}, {recipe.feature_weight:g} and {recipe.block_steps}")
    if original is not None and recipe.compares_features:
        find_hook_points(original, Plan())


def distill(start: Compressed, teacher: Teacher, data: TrainingData, recipe: Recipe, calibration: Inputs,
            seed: int, device: str = "cpu", should_stop: Callable[[], bool] | None = None,
            original: Original | None = None, likelihood: Likelihood = CATEGORICAL,
            as_shipped: bool = False) -> Compressed:
    """Train a compressed network by distillation, quantised at the end. Deterministic for given inputs unless
    `recipe.seconds` cuts it short.

    Args:
        start: the network; changed in place.
        teacher: gives the original's outputs for batches of the training data.
        data: the training data.
        recipe: how to train.
        calibration: normalised inputs `(N, …)`.
        seed: of the order of samples.
        device: of torch.
        should_stop: is asked before each step whether the user wants to stop.
        original: where the recipe compares features, or fits blocks.
        likelihood: what outputs stand for.
        as_shipped: train in eval mode with live norms, because in training mode it would be another network (see
            `training_mode`).

    Returns:
        `start`.

    Raises:
        InputError: where the recipe needs the original and it is not given, or mixes inputs that are tokens.
        TrialError: where the loss is not finite, or `should_stop` said so.
    """
    check_recipe(recipe, None if original is None else original.table, calibration)
    if recipe.block_steps and original is not None:
        start, recipe = _with_blocks(start, original, recipe, calibration, seed, device, should_stop)
        if not recipe.epochs:
            return start
    rebase_norms(start.model, calibration)
    release_memory()
    model = channels_last(start.model.to(device), calibration[:TRIED].to(device))
    model = train_as_shipped(model) if as_shipped else model.train()
    steps = learn_steps(start)
    compared = _FeatureLoss(start, original, recipe, device)
    optimizer = torch.optim.Adam(_parameter_groups(model, recipe.learning_rate) + compared.parameter_groups(),
                                 lr=recipe.learning_rate, fused=True)
    per_epoch = math.ceil(len(data.train_targets) / recipe.batch)
    total = max(1, round(recipe.epochs * per_epoch))

    def clock() -> float:
        return time.perf_counter() - (0.0 if recipe.charge_teacher else teacher.seconds)

    average = MovingAverage(list(model.parameters()), recipe.average) if recipe.average else None
    backtracking = Backtracking(list(model.parameters()), optimizer)
    schedule = Schedule(total, per_epoch, recipe.warm_up, recipe.patience if recipe.seconds is None else 0)
    losses, halves = _Losses(model, compared, likelihood, recipe, device), Halves(device)
    began, steps_done, targets_of = clock(), 0, functools.cache(data.view_targets)
    for step, batch in _batches(len(data.train_targets), recipe, total, seed):
        _go_on(should_stop, step, total, None if recipe.seconds is None else recipe.seconds - (clock() - began))
        done = max(schedule.done(step), 0.0 if recipe.seconds is None else (clock() - began) / recipe.seconds)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * losses.pace * schedule.factor(done)
        with _of_the_data():
            inputs, logits = teacher.mixed(step // per_epoch, *batch) if recipe.mixup else \
                teacher.batch(step // per_epoch, batch.rows)
        targets = targets_of(teacher.view_of(step // per_epoch), teacher.seed)
        loss_of = losses.of(on_device(inputs, device), on_device(logits, device), batch, targets)
        loss = halves.backward(len(logits), loss_of, optimizer.zero_grad)
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        steps_done += 1
        if average is not None:
            average.update()
        schedule.see(step, loss)
        losses.pace *= backtracking.see(loss, steps_done / max(done, 1 / total))
    if average is not None:
        average.apply()
    teacher.save()
    release_memory()
    model = model.cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    start.model, start.weights, start.norms = model, {}, {}
    learned, start.latent = freeze_steps(model, steps, start.masks)
    start.receipts = without_rounding(start.receipts)
    start.receipts.append(Receipt("", "distill", {
        "steps": steps_done, "epochs": round(steps_done / per_epoch, 2), "plateau_at_step": schedule.plateau,
        "learning_rate": losses.pace * recipe.learning_rate, **losses.shares(),
        **({"taken_back": backtracking.times} if backtracking.times else {}),
        **({"mode": "eval, with live norms"} if as_shipped else {}), **compared.facts()}))
    quantize(start, calibration, learned)
    return start


def _go_on(should_stop: Callable[[], bool] | None, step: int, total: int, seconds_left: float | None) -> None:
    """Report progress, with a clock by the seconds that are left. TrialError when the search was stopped."""
    if should_stop is not None and should_stop():
        raise TrialError("stopped when the search was")
    what = "training" if seconds_left is None else f"training, {format_seconds(max(0.0, seconds_left))} left, step"
    checkpoint(what, step, total if seconds_left is None else 0)
    bound_memory()


def _with_blocks(start: Compressed, original: Original, recipe: Recipe, calibration: Inputs, seed: int, device: str,
                 should_stop: Callable[[], bool] | None) -> tuple[Compressed, Recipe]:
    """The network after block-wise reconstruction, and the recipe with what is left of its time."""
    began = time.perf_counter()
    bound = recipe.seconds if recipe.seconds is None or not recipe.epochs else recipe.seconds / 2
    start = reconstruct_blocks(start, original, calibration, recipe.block_steps, seed, device, bound, should_stop)
    if recipe.epochs and recipe.seconds is not None:
        recipe = replace(recipe, seconds=max(recipe.seconds - (time.perf_counter() - began), 1e-3))
    return start, recipe


class _Batch(NamedTuple):
    """Rows of the training set, the rows that they are mixed with, and the share of the former."""

    rows: Tensor
    partners: Tensor
    share: float

    def labels(self, targets: Tensor | None, device: str, part: slice) -> list[tuple[float, Tensor]]:
        """Targets of what was mixed, with their shares, for a part of the batch; none where a view has none."""
        if targets is None:
            return []
        return [(share, on_device(targets[rows[part]], device))
                for share, rows in ((self.share, self.rows), (1 - self.share, self.partners))]


def _batches(samples: int, recipe: Recipe, steps: int, seed: int) -> Iterator[tuple[int, _Batch]]:
    """Numbered batches, in an order that `seed` draws anew for each epoch; those of a single sample are left out,
    because BatchNorm cannot train on one."""
    generator, mixture = torch.Generator().manual_seed(seed), random.Random(seed)
    per_epoch = math.ceil(samples / recipe.batch)
    order = torch.empty(0)
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(samples, generator=generator)
        rows = order[(step % per_epoch) * recipe.batch:(step % per_epoch + 1) * recipe.batch]
        if len(rows) < 2:
            continue
        if recipe.mixup:
            partners = rows[torch.randperm(len(rows), generator=generator)]
            yield step, _Batch(rows, partners, mixture.betavariate(recipe.mixup, recipe.mixup))
        else:
            yield step, _Batch(rows, rows, 1.0)


class _Losses:
    """The loss of a student's batches. `recipe` and `pace` are those for where the student begins, once its first batch
    has told."""

    def __init__(self, model: nn.Module, compared: _FeatureLoss, likelihood: Likelihood, recipe: Recipe,
                 device: str) -> None:
        self._model, self._compared, self._likelihood, self._device = model, compared, likelihood, device
        self.recipe, self.pace = recipe, 1.0
        # How far students that are compared by features are, answers do not say.
        self._is_adapted = recipe.compares_features

    def of(self, inputs: Inputs, logits: Tensor, batch: _Batch, targets: Tensor | None) -> Callable[[slice], Tensor]:
        """The mean loss of a part of a batch: inputs `(B, …)`, the teacher's outputs `(B, …)`, and the targets `(N, …)`
        of the training set."""
        def loss_of(rows: slice) -> Tensor:
            part, compared, likelihood = inputs[rows], self._compared, self._likelihood
            with autocast(self._device), products_on_small_maps(self._model), \
                    recorded(self._model, compared.points) as features:
                out = likelihood.canonical(self._model(part))
            soft = likelihood.distillation_loss(out, logits[rows], self.recipe.temperature)
            if not self._is_adapted:
                self._is_adapted = True
                self.recipe, self.pace = _adapt_to_student(self.recipe, float(soft.detach()),
                                                           likelihood.spread(logits[rows]))
            weight = self.recipe.label_weight
            if weight and not self.recipe.reads_labels:
                loss = torch.lerp(soft, likelihood.distillation_loss(out, logits[rows], 1.0), weight)
            else:
                labels = batch.labels(targets, self._device, rows)
                loss = _with_targets(soft, out, labels, weight, likelihood)
            return compared.added_to(loss, features, part)

        return loss_of

    def shares(self) -> dict[str, float]:
        """The share of the loss that softens no scores, for the receipt, by what it is of."""
        return {"label_weight" if self.recipe.reads_labels else "unsoftened_weight": self.recipe.label_weight}


class _FeatureLoss:
    """The loss between feature maps of student and original, as a recipe weights it; nothing where it compares none."""

    def __init__(self, start: Compressed, original: Original | None, recipe: Recipe, device: str) -> None:
        self._recipe, self._original, self._device = recipe, original, device
        self.points: tuple[Layer, ...] = ()
        self._projections: Projections | None = None
        if original is not None and recipe.compares_features:
            self.points = find_hook_points(original.table, start.plan)
        if original is not None and self.points and recipe.feature_weight:
            self._projections = Projections(self.points, start, original).to(device)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The projections' parameters, which are trained beside the student."""
        return [] if self._projections is None else _parameter_groups(self._projections, self._recipe.learning_rate)

    def added_to(self, loss: Tensor, features: dict[str, Tensor], inputs: Inputs) -> Tensor:
        """`loss` with the weighted distances of the student's `features` from the original's for the same inputs."""
        if self._original is None or not self.points:
            return loss
        with autocast(self._device):
            of_the_original = wanted_features(self._original, self.points, inputs)
        if self._recipe.attention_weight:
            loss = loss + self._recipe.attention_weight * attention_loss(features, of_the_original, self.points)
        if self._projections is not None:
            loss = loss + self._recipe.feature_weight * self._projections.loss(features, of_the_original)
        return loss

    def facts(self) -> dict[str, list[str]]:
        """Layers whose maps were compared, for the receipt."""
        weights = {"attention_of": self._recipe.attention_weight, "features_of": self._recipe.feature_weight}
        return {key: [layer.name for layer in self.points] for key, weight in weights.items() if weight}


@contextmanager
def _of_the_data() -> Iterator[None]:
    """What fails here is the user's augmentation or normalisation, or the original on what they make: TrialError with
    its cause."""
    try:
        yield
    except AutocompressError:
        raise
    except Exception as error:  # a user's function may raise anything
        first = next(iter(str(error).strip().splitlines()), "")
        raise TrialError(f"training data could not be made or answered: {type(error).__name__}: {first}") from error


def _with_targets(soft: Tensor, student: Tensor, labels: Sequence[tuple[float, Tensor]], weight: float,
                  likelihood: Likelihood) -> Tensor:
    """The loss of distillation mixed with that of the data's targets; `labels` of what was mixed, and their shares."""
    if not weight or not labels:
        return soft  # whatever stands in place of labels is not looked at
    hard = sum(share * likelihood.target_loss(student, targets) for share, targets in labels if share)
    return (1 - weight) * soft + weight * hard


def _adapt_to_student(recipe: Recipe, divergence: float, spread: float) -> tuple[Recipe, float]:
    """The recipe for a student that begins at this `divergence`, and the pace at which it is trained, at most 1.

    Steps are in proportion to the distance that is to be gone, the root of the divergence: longer ones would first
    throw back a student that has lost next to nothing. What it can still learn, the labels have to say.
    """
    # Of equal answers the divergence is zero but for rounding, which on some processors leaves it below.
    far = min(1.0, max(0.0, divergence) / max(FAR * spread, 1e-9))
    weight = recipe.label_weight
    if weight:
        weight += max(0.0, NEAR_LABEL_WEIGHT - weight) * (1 - far)
    return replace(recipe, label_weight=weight), max(LEAST_PACE, math.sqrt(far))


def _parameter_groups(module: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
    """Each parameter with its learning rate, `base`."""
    groups: list[dict[str, Any]] = []
    for parameter in module.parameters():
        size = float(parameter.detach().square().mean().sqrt())
        least = LEAST_WEIGHT if parameter.dim() > 1 else LEAST_VECTOR
        groups.append({"params": [parameter], "base": learning_rate * max(least, size)})
    return groups
