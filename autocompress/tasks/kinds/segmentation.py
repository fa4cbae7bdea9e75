"""Segmentation: a class for each pixel, from maps of scores `(N, classes, H, W)`; of two classes also from one map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from autocompress.tasks.kinds.base import KindContext, KindFacts, chosen_output, of_classes, scores_of
from autocompress.tasks.metrics.measure import OfSamples, Outputs
from autocompress.tasks.metrics.table import NAMED
from autocompress.tasks.sources.base import TARGET


@dataclass(frozen=True)
class OfMaps(OfSamples):
    """A metric of maps of scores, which are scaled to the size of the masks where they are of another. `output`: their
    name."""

    output: str = ""

    def of_batch(self, outputs: Outputs, batch: Any, original: Outputs) -> np.ndarray:
        """See `OfSamples`."""
        maps, size = outputs[self.output], tuple(batch[TARGET].shape[-2:])
        if maps.shape[-2:] != size:
            tensor = torch.from_numpy(np.ascontiguousarray(maps)).float()
            maps = functional.interpolate(tensor, size, mode="bilinear", align_corners=False).numpy()
        return super().of_batch({**outputs, self.output: maps}, batch, original)


def segmentation(context: KindContext) -> KindFacts:
    """Mean intersection over union; without masks, agreement with the original."""
    output = chosen_output(context, lambda tensor: tensor.dim() == 4, ("out", "logits"),
                           "maps of scores (N, classes, H, W)")
    named = NAMED["miou"]
    return of_classes(context, output, [OfMaps(named.metric, named.rows, named.value, scores_of(output),
                                               output=output)])
