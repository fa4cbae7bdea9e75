"""`--dynamic`: files that take inputs of other sizes than those of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import autocompress
from autocompress.errors import InputError
from autocompress.tasks.base import ArrayTask, Likelihood, NamedTensors, Split
from autocompress.tensors.likelihood import Gaussian


class Numbers(ArrayTask):
    """Whatever the network puts out."""

    def __init__(self, inputs: object) -> None:
        split = Split(inputs, torch.zeros(len(inputs)))  # type: ignore[arg-type]
        super().__init__(dict.fromkeys(("train", "validation", "test"), split))

    def likelihood(self, outputs: Tensor, ends_in_sigmoid: object) -> Likelihood:
        return Gaussian(outputs)

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
        return float(np.abs(outputs).mean()), 0.1


class Maps(nn.Module):
    """Down and up again, with a skip: any size that four divides."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.up, self.head = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x).relu()
        return self.head(torch.cat([skip, self.up(self.down(skip).relu())], 1))  # type: ignore[no-any-return]


class Words(nn.Module):
    """The mean of what attention makes of words that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 16), nn.Embedding(12, 16)
        self.mix, self.head = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        x = self.mix(x, src_key_padding_mask=mask == 0) * mask[..., None]
        return self.head(x.sum(1) / mask.sum(1, keepdim=True))  # type: ignore[no-any-return]


def exported(model: nn.Module, inputs: object, site: str, folder: Path) -> onnxruntime.InferenceSession:
    """The file of the network with one layer of six bits."""
    traced = autocompress.trace(model.eval(), task=Numbers(inputs), dynamic=True)
    step = autocompress.Step(site, "quantize", {"weight_bits": 6, "activation_bits": 32})
    return onnxruntime.InferenceSession(traced.export(autocompress.Plan.of([step]), folder / "artifact"))


def test_maps_of_another_height_and_width(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Maps()
    session = exported(model, torch.randn(24, 3, 16, 16), "down", tmp_path)
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    other = torch.randn(1, 3, 24, 40)
    (answer,) = session.run(None, {"input": other.numpy()})
    with torch.no_grad():
        expected = model(other).numpy()
    np.testing.assert_allclose(answer, expected, atol=0.15 * np.abs(expected).max())


def test_texts_of_another_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids = Words(), torch.randint(1, 50, (24, 8))
    mask = (torch.arange(8) < torch.randint(2, 9, (24, 1))).long()
    session = exported(model, NamedTensors(ids=ids, mask=mask), "head", tmp_path)
    assert [one.shape for one in session.get_inputs()] == [["batch", "length"]] * 2
    (answer,) = session.run(None, {"ids": ids[:3, :5].numpy(), "mask": np.ones((3, 5), np.int64)})
    with torch.no_grad():
        expected = model(ids[:3, :5], torch.ones(3, 5).long()).numpy()
    np.testing.assert_allclose(answer, expected, atol=0.15 * np.abs(expected).max())


def test_series_of_another_length_with_channels_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                          nn.Linear(16, 3))
    session = exported(model, torch.randn(24, 4, 20), "0", tmp_path)
    assert session.get_inputs()[0].shape == ["batch", 4, "length"]
    other = torch.randn(2, 4, 33)
    (answer,) = session.run(None, {"input": other.numpy()})
    with torch.no_grad():
        expected = model(other).numpy()
    np.testing.assert_allclose(answer, expected, atol=0.15 * np.abs(expected).max())


def test_a_size_that_the_network_fixes_stays(tmp_path: Path) -> None:
    """A layer that reads the whole map has weights for one size."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))
    session = exported(model, torch.randn(24, 1, 8, 8), "2", tmp_path)
    assert session.get_inputs()[0].shape == ["batch", 1, 8, 8]


def test_a_format_of_fixed_sizes_says_so(tmp_path: Path) -> None:
    from autocompress.formats.base import Format

    with pytest.raises(InputError, match="inputs of a fixed size: leave out --dynamic"):
        Format.with_free_sizes(type("Fixed", (Format,), {"name": "fixed"})())
