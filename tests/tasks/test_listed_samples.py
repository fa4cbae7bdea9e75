"""A list of samples, as `list(dataset)` gives, is told from one of batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from autocompress.tasks.batch_sources import BATCH, batch_count, batches_of

PICTURE, MAP, ROW = torch.zeros(3, 8, 8), torch.zeros(8, 8), torch.zeros(12)


@pytest.mark.parametrize("sample", [
    (PICTURE, 3), (PICTURE, 3.5), [PICTURE, torch.tensor(3)], (PICTURE.numpy(), np.int64(3)), ("a text", 1),
    {"image": PICTURE, "label": 3}, {"input_ids": ROW, "attention_mask": ROW, "labels": torch.tensor(1)},
    (PICTURE, MAP), (ROW, torch.zeros(1)), (ROW.numpy(), np.zeros(2)),
])
def test_samples_are_put_in_batches(sample: Any) -> None:
    samples = [sample] * 70
    batches = [*batches_of(samples, "train")]
    assert batch_count(samples) == len(batches) == 2
    first = batches[0]
    assert len(next(iter(first.values())) if isinstance(first, dict) else first[0]) == BATCH


@pytest.mark.parametrize("batch", [
    (torch.zeros(16, 3, 8, 8), torch.zeros(16)), (torch.zeros(16, 12), torch.zeros(16, 1)), (ROW, ROW),
    (torch.zeros(8, 3, 8, 8), torch.zeros(37, 6)), (torch.zeros(16, 20, 4), torch.zeros(37, 6)),
    {"x": torch.zeros(16, 4), "y": torch.zeros(16), "epoch": 3}, torch.zeros(16, 4), (torch.zeros(16, 4), ["a"] * 16),
])
def test_batches_stay_as_they_are(batch: Any) -> None:
    batches = [*batches_of([batch] * 3, "train")]
    assert batch_count([batch] * 3) == 3 and all(each is batch for each in batches)
