"""Masks and maps change as the pictures of a batch do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autocompress
from autocompress.tasks.models import load_network

PICTURES = torch.rand(60, 2, 8, 8, generator=torch.Generator().manual_seed(0))
BRIGHT = PICTURES[:, 0] > 0.5
ROWS = torch.tensor([40, 3, 17, 3])


class Maps(nn.Module):
    """Scores of three classes for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 6, 3, 1, 1), nn.Conv2d(6, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.first(image).relu())


def view_of(train: Any, augment: str = "flip,pad=2", view: int = 1, **options: Any) -> tuple[Tensor, Any]:
    """Inputs of some samples in a view, and the batch that the loss is given for them."""
    task = autocompress.Task(train, train, train, augment=augment, loss=lambda outputs, batch: outputs["output"].mean(),
                             **options)
    load_network(Maps().eval(), task)
    targets = task.view_targets(view, 5)
    return task.train_view(view, 5)[ROWS], None if targets is None else targets[ROWS].content


@pytest.mark.parametrize("view", [1, 2])
@pytest.mark.parametrize("mask", [BRIGHT.long(), BRIGHT, BRIGHT[:, None].float(), BRIGHT.to(torch.uint8)])
def test_a_threshold_of_the_picture_stays_one(mask: Tensor, view: int) -> None:
    inputs, batch = view_of((PICTURES, mask), view=view)
    assert not torch.equal(inputs, PICTURES[ROWS])
    assert torch.equal(batch[0], inputs) and batch[1].dtype == mask.dtype
    assert torch.equal(batch[1].reshape(4, 8, 8).bool(), inputs[:, 0] > 0.5)


def test_arrays_in_parts_of_batches_stay_what_they_are() -> None:
    data = {"image": PICTURES.numpy(), "target": {"mask": BRIGHT.numpy().astype(np.int32), "label": np.arange(60)}}
    inputs, batch = view_of(data)
    assert isinstance(batch["target"]["mask"], np.ndarray)
    assert np.array_equal(batch["target"]["mask"], (inputs[:, 0] > 0.5).numpy())
    assert batch["target"]["label"].tolist() == ROWS.tolist()


@pytest.mark.parametrize(("uncounted", "edge"), [(255, 255), (-100, -100), (None, 0)])
def test_what_comes_in_at_the_edges_does_not_count(uncounted: int | None, edge: int) -> None:
    masks = torch.randint(1, 3, (60, 8, 8), generator=torch.Generator().manual_seed(0))
    masks[:, 4, 4] = 2 if uncounted is None else uncounted
    masks[:, 5, 5] = 0
    inputs, batch = view_of((PICTURES, masks), "pad=3")
    outside = (inputs == 0).all(1)
    assert outside.any() and (batch[1][outside] == edge).all() and (batch[1][~outside] > 0).any()


def test_a_mask_of_0_and_255_alone_has_two_classes() -> None:
    inputs, batch = view_of((PICTURES, BRIGHT.to(torch.uint8) * 255), "pad=3")
    assert torch.equal(batch[1] == 255, inputs[:, 0] > 0.5)


def test_boxes_and_maps_of_directions_leave_the_loss_out() -> None:
    boxes = [{"image": PICTURES[i:i + 6], "boxes": [torch.zeros(1 + i % 2, 4)] * 6} for i in range(0, 60, 6)]
    assert view_of(boxes, view=2, inputs="image")[1] is None
    assert view_of((PICTURES, PICTURES), "flip", view=2, inputs=lambda batch: batch[0])[1] is None


def test_an_input_that_the_batch_holds_is_given_to_the_loss_as_it_is_read() -> None:
    inputs, batch = view_of(PICTURES)
    assert torch.equal(batch, inputs)
