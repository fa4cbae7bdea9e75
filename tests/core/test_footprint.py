"""The memory of one sample, and the batches that follow from it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from autocompress.backend.graph.trace import trace
from autocompress.core.batch_sizes import LIVE_BYTES, rows_of
from autocompress.core.footprint import Footprint, footprint
from autocompress.core.layer import Activation, LayerTable
from autocompress.formats.running import in_batches
from autocompress.testing.techniques import workbench


def test_what_is_alive_at_once_and_all_together() -> None:
    """An input of 5 values, its successor, and one that is made when the input is gone."""
    tensors = (Activation(5, (), 0, 1), Activation(7, ("a",), 0, 2), Activation(3, ("b",), 2, 3))
    table = LayerTable(input_shape=(5,), outputs=3, layers=(), activations=tensors)
    assert footprint(table) == Footprint(live=4 * 12, every=4 * 15)


def test_with_twice_the_side_of_a_picture_a_quarter_of_the_samples_go_together() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    small, large = (footprint(trace(net, (3, side, side))[0]) for side in (64, 128))
    assert large == Footprint(4 * small.live, 4 * small.every)
    assert abs(rows_of(small.live, 10**6) - 4 * rows_of(large.live, 10**6)) < 4
    assert rows_of(large.live, 10**6) * large.live <= LIVE_BYTES


def test_a_wider_network_has_smaller_batches_for_the_same_input() -> None:
    narrow, wide = (footprint(trace(nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 2, 3)).eval(),
                                    (3, 32, 32))[0]) for width in (8, 64))
    assert rows_of(wide.live, 10**6) < rows_of(narrow.live, 10**6) / 4


def test_files_are_scored_and_answer_in_batches_of_these_sizes() -> None:
    network = workbench("chain").network
    assert network.rows == rows_of(footprint(network.table).live, 256)
    runtime = network.writer.format.open(network.writer.original_file, 1)
    inputs = {"input": network.calibration.numpy()}
    one, many = (in_batches(runtime, inputs, rows) for rows in (7, network.rows))
    np.testing.assert_allclose(one["output"], many["output"], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        expected = network.model(network.calibration).numpy()
    np.testing.assert_allclose(many["output"], expected, rtol=1e-4, atol=1e-5)
