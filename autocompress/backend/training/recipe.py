"""How a compressed network is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autocompress.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """How a compressed network is trained.

    Attributes:
        epochs: passes over the training set.
        seconds: after which it ends earlier; None for no limit.
        batch: samples of one step.

    Raises:
        InputError: when a number is out of its range.
    """

    epochs: float = 1.0
    seconds: float | None = None
    batch: int = 128
    # Largest step of Adam, as a share of the root mean square of the parameter tensor at the start.
    learning_rate: float = 0.02
    temperature: float = 4.0
    # Share of the loss that softens no scores: cross-entropy with the labels, or without labels the divergence from the
    # teacher at temperature 1. It is larger for a student that begins near its teacher, see `_adapt_to_student`.
    label_weight: float = 0.1
    # Whether the labels are looked at; where not, they may be anything.
    reads_labels: bool = True
    # Whether the teacher's time counts as `seconds`. Not where students are compared: the first would pay for all.
    charge_teacher: bool = True
    # Share of the schedule in which the learning rate rises.
    warm_up: float = 0.05
    # Largest decay of the moving average of all parameters, learned scales too, that is kept in place of the last ones;
    # 0 keeps the last. Behind a cosine that ends at zero there was nothing to gain.
    average: float = 0.0
    # Epochs without a lower loss after which a training comes to an early end, see `Schedule`; 0: never. One that a
    # clock ends is left to it.
    patience: int = 5
    # Weight of the distance of attention maps from the original's (see `feature_distillation`), added to the loss.
    # Above 0 the original runs beside the student at every step, for its kept answers hold no features.
    attention_weight: float = 0.0
    # Weight of the distance of projected feature maps from the original's (see `feature_distillation.Projections`),
    # added to the loss. Both maps are of one pass of the original.
    feature_weight: float = 0.0
    # Optimiser steps for each unit of the network before the distillation, on calibration inputs alone (see
    # `blockwise`). With `epochs` 0 they are the whole recovery, else at most half of `seconds`.
    block_steps: int = 0
    # Parameter of the Beta distribution from which the shares are drawn at which pairs of inputs are mixed (Zhang et
    # al., "mixup", ICLR 2018); 0 mixes none. The teacher answers every mixture anew: its kept answers are of no use.
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "label_weight", "attention_weight", "feature_weight", "block_steps", "mixup"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InputError(f"{name} must be 0 or more, and finite, but got {value!r}")
        if self.label_weight > 1:
            raise InputError(f"label_weight must be from 0 to 1, but got {self.label_weight!r}")
        if not (self.epochs or self.block_steps):
            raise InputError("epochs must be above 0 where block_steps is 0: a recovery of neither does nothing")

    @property
    def compares_features(self) -> bool:
        """Whether the original runs beside the student."""
        return bool(self.attention_weight or self.feature_weight)
