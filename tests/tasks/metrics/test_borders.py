"""One score of two classes is read as the original's outputs say, in every batch alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autocompress
from autocompress.tasks.metrics.borders import with_borders
from autocompress.tasks.metrics.table import metric
from autocompress.tasks.models import load_network

SMALL = np.float32([[[[0.1, 0.9]]], [[[0.2, 0.8]]]])  # maps (N, 1, 1, 2) in which all values are from 0 to 1
TRUTH = np.array([[[0, 1]], [[0, 1]]])


@pytest.mark.parametrize(("original", "expected"), [([[-3.0, 2.0]], 0.25), ([[0.0, 1.0]], 1.0)])
def test_maps_in_one_batch_are_read_as_those_of_the_original(original: list[list[float]], expected: float) -> None:
    """Above 0 all pixels of `SMALL` are of the second class: an overlap of a half of it, and none of the first."""
    outputs = [{"output": torch.tensor(SMALL)}, {"output": torch.tensor(original).view(1, 1, 1, 2)}]
    measure, = with_borders([metric("miou")], outputs)
    assert measure.over_split([measure.of_batch({"output": SMALL}, (None, TRUTH), {})], [])[0] == expected


@pytest.mark.parametrize("name", ["accuracy", "f1_macro"])
def test_scores_of_a_whole_split_are_too(name: str) -> None:
    scores, labels = np.float32([0.2, 0.4, 0.9, 0.6]), np.array([1, 1, 1, 1])
    for original, expected in ((torch.tensor([-1.0, 2]), 1.0), (torch.tensor([0.0, 1]), 0.5)):
        measure, = with_borders([metric(name)], [{"output": original}])
        value, _ = measure.over_split([measure.of_batch({"output": scores}, (None, labels), {})], [])
        assert value == expected if name == "accuracy" else (value == 1) == (expected == 1)


def test_of_what_cannot_be_told_nothing_is_settled() -> None:
    def raises(outputs: object) -> None:
        raise ValueError

    measures = [metric("miou", predictions=raises), metric("mae"), metric(lambda outputs, batch: 1.0)]
    assert with_borders(measures, [{"output": torch.zeros(2, 1, 1, 2)}]) == (*measures,)


class Bright(nn.Module):
    """One logit for each pixel: its brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Conv2d(1, 1, 1)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.scale.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(x)


def test_a_task_reads_a_batch_of_small_logits_as_logits() -> None:
    images = torch.randn(24, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    small = images[:8].abs().clamp(max=1) * 0.4
    checked = small, (small[:, 0] > 0).long()
    task = autocompress.Task((images, (images[:, 0] > 0).long()), checked, checked, metric="miou")
    loaded = load_network(Bright().eval(), task)
    likelihood = task.likelihood(loaded.model(images).detach(), ())
    score = task.score([(slice(0, 8), {"output": small.numpy()})], "validation", likelihood)
    assert score.metrics["miou"] == 1
