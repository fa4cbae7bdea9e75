"""Subclasses of known layers: left alone where they compute more than their base, open where they do not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.backend.graph.trace import trace
from autocompress.formats.onnx.template import export_template


class _Same(nn.Conv2d):
    """Pads by itself, as convolutions that came from TensorFlow do."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` → `(N, C', H/2, W/2)`."""
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


class _Cast(nn.Linear):
    """Just a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C)` → `(N, C')`."""
        return F.linear(x, self.weight, self.bias)


def test_a_layer_that_pads_by_itself_is_locked_and_one_that_does_not_is_open() -> None:
    model = nn.Sequential(_Same(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), _Cast(64, 5)).eval()
    table, _ = trace(model, (3, 8, 8))
    assert table.by_name["0"].not_compressible_reason == "the forward of _Same computes more than its weights do"
    assert table.by_name["3"].not_compressible_reason == ""


def test_a_norm_without_running_statistics_is_not_folded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(),
                          nn.Linear(144, 5)).eval()
    table, _ = trace(model, (3, 8, 8))
    assert not any(layer.folds_into for layer in table.layers)


class _Gates(nn.Module):
    """Computes with its parameters: what a clean-up at export would do once and for all."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.fc = nn.Parameter(torch.ones(4)), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 4)` → `(N, 5)`."""
        scores: Tensor = self.fc(x * torch.sigmoid(self.scale) * 2)
        return scores


def test_arithmetic_on_parameters_stays_in_the_graph() -> None:
    template = export_template(_Gates().eval(), torch.zeros(2, 4))
    assert {slot.key for slot in template.slots.values()} == {"scale", "fc.weight", "fc.bias"}
    assert "Sigmoid" in {node.op_type for node in template.model.graph.node}
