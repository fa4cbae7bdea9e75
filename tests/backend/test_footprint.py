"""The memory of one sample, and the batches that follow from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.backend.statistics import calibration
from autocompress.backend.statistics.calibration import norm_inputs, reestimate_norms
from autocompress.core.batch_sizes import LIVE_BYTES, rows_of
from autocompress.formats.running import in_batches
from autocompress.tensors.footprint import Footprint, footprint
from autocompress.tensors.named import NamedTensors
from autocompress.testing.techniques import workbench


class Skip(nn.Module):
    """Keeps its input beside two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 30), nn.Linear(30, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of input and answer."""
        return x + self.second(self.first(x).relu_())


def convolutions(width: int) -> nn.Module:
    """With a norm."""
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
                         nn.Conv2d(width, 4, 1)).eval()


def test_what_is_alive_at_once_and_all_together() -> None:
    """Beside the input 30 values, changed in place, and 10 behind them; then these and their sum."""
    assert footprint(Skip(), torch.randn(5, 10)) == Footprint(live=4 * (10 + 30 + 10), every=4 * (10 + 30 + 10 + 10))


def test_views_take_nothing_and_named_inputs_count_each() -> None:
    class Both(nn.Module):
        def forward(self, inputs: NamedTensors) -> torch.Tensor:
            return (inputs["left"].view(-1, 4).T + inputs["right"].T).T

    inputs = NamedTensors(left=torch.randn(3, 4), right=torch.randn(3, 4))
    assert footprint(Both(), inputs) == Footprint(live=3 * 16, every=3 * 16)


def test_with_twice_the_side_of_a_picture_a_quarter_of_the_samples_go_together() -> None:
    small, large = (footprint(convolutions(16), torch.randn(1, 3, side, side)) for side in (64, 128))
    assert large == Footprint(4 * small.live, 4 * small.every)
    assert abs(rows_of(small.live, 10**6) - 4 * rows_of(large.live, 10**6)) < 4
    assert rows_of(large.live, 10**6) * large.live <= LIVE_BYTES


def test_a_wider_network_has_smaller_batches_for_the_same_input() -> None:
    narrow, wide = (footprint(convolutions(width), torch.randn(1, 3, 32, 32)) for width in (8, 64))
    assert rows_of(wide.live, 10**6) < rows_of(narrow.live, 10**6) / 4


def test_files_are_scored_and_answer_in_batches_of_these_sizes() -> None:
    network = workbench("chain").network
    assert network.rows == rows_of(footprint(network.model, network.calibration).live, 256)
    runtime = network.writer.format.open(network.writer.original_file, 1)
    inputs = {"input": network.calibration.numpy()}
    one, many = (in_batches(runtime, inputs, rows) for rows in (7, network.rows))
    np.testing.assert_allclose(one["output"], many["output"], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        expected = network.model(network.calibration).numpy()
    np.testing.assert_allclose(many["output"], expected, rtol=1e-4, atol=1e-5)


def test_a_narrower_network_is_calibrated_in_the_batches_of_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms are matched batch by batch: a network that is narrower, and could take more at once, takes the same."""
    wide, narrow, inputs = convolutions(16), convolutions(16), torch.randn(60, 3, 16, 16)
    monkeypatch.setattr(calibration, "NORM_BYTES", 20 * footprint(wide, inputs).live)
    narrow.load_state_dict(wide.state_dict())
    narrow[1].register_forward_hook(lambda *_: torch.zeros(1, 16, 1, 1))
    of_the_original = norm_inputs(wide, inputs)
    assert of_the_original["1"].rows == 20
    reestimate_norms(narrow, inputs, originals=of_the_original)
    torch.testing.assert_close(narrow[1].running_mean, wide[1].running_mean)
