"""Attention heads that are cut: the prepared graph is filled, and computes what the network computes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.core.plan import Plan, Step
from autocompress.formats.onnx.runtime import Runtime
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.networks import task_data

HEADS, SIZE = 2, 8


class Encoder(nn.Module):
    """Attention as encoders of text write it, with fewer heads than values in each."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(12, HEADS * SIZE) for _ in range(3))
        self.out, self.head = nn.Linear(HEADS * SIZE, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        shape = (*tokens.shape[:-1], -1, SIZE)
        query, key, value = (layer(tokens).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        return self.head(torch.relu(tokens + self.out(mixed.flatten(2))).mean(1))  # type: ignore[no-any-return]


def test_heads_are_cut_in_the_prepared_graph(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """A reshape to (heads, size) keeps the size, though that is longer: half of the heads of another size would be
    computed from as many values."""
    torch.manual_seed(0)
    bench = Workbench(Encoder().eval(), task_data((12, 3, 3), 3, 32), load_profile("host"), seed=0, folder=tmp_path,
                      epochs=1)
    plan = Plan.of([Step("query", "prune", {"keep": 1})])
    with caplog.at_level(logging.INFO):
        written = bench.network.write(bench.network.compressor.compress(plan))
    assert "exporting afresh" not in caplog.text
    inputs = bench.network.calibration
    with torch.no_grad():
        expected = bench.network.compressor.compress(plan).model(inputs).numpy()
    assert abs(Runtime(written.data).run(inputs.numpy()) - expected).max() < 1e-5
