"""Arrays as people keep them: labels of many kinds, tables of integers, channels last."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from autocompress.errors import InputError
from autocompress.tasks import npz
from autocompress.tasks.data import load_data
from autocompress.tasks.models import load_model
from autocompress.tasks.splits import TaskData

Y = np.arange(40) % 4
TABLE = np.random.default_rng(0).integers(0, 50, (40, 6))


@pytest.mark.parametrize("labels", [
    Y, Y[:, None], Y.astype(np.float32), np.eye(4)[Y], np.eye(4, dtype=bool)[Y], Y.astype(np.uint8),
    Y.astype(str), np.array(["bee", "cat", "dog", "eel"])[Y], [("ant", "bee", "cow", "doe")[v] for v in Y],
    torch.from_numpy(Y).float(), np.array([b"a", b"b", b"c", b"d"])[Y],
], ids=["integers", "column", "floats", "one-hot", "bool rows", "bytes", "digits", "names", "list", "tensor", "ascii"])
def test_labels_that_can_be_meant_in_one_way(labels: Any) -> None:
    splits = {"train": (TABLE.astype(np.float32), labels), "val": (TABLE.astype(np.float32), labels),
              "test": (TABLE.astype(np.float32), labels)}
    data = load_data(splits)
    assert data.classes == 4
    assert np.array_equal(data.train.targets.numpy(), Y)


@pytest.mark.parametrize(("labels", "message"), [
    (Y + 0.5, "labels must be integers, but are float64 such as 0.5"),
    (np.full((40, 3), 2), "one-hot rows"),
    (np.array([object()] * 40), "integers or names"),
    (Y[:30], "40 samples and 30 labels"),
    (np.r_[Y, Y], "40 samples and 80 labels"),
])
def test_labels_that_cannot_be_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data((TABLE.astype(np.float32), labels))


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("count", [20, 60])
def test_lengths_are_compared_in_every_split(tmp_path: Path, split: str, count: int) -> None:
    arrays = {f"x_{name}": TABLE.astype(np.float32) for name in ("train", "val", "test")}
    labels = {f"y_{name}": np.resize(Y, count if name == split else 40) for name in ("train", "val", "test")}
    np.savez(tmp_path / "d.npz", **arrays, **labels)
    with pytest.raises(InputError, match=f"40 samples and {count} labels"):
        load_data(f"npz:{tmp_path / 'd.npz'}")


class Named(Dataset[Any]):
    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        return torch.full((2,), float(index)), "xyz"[index % 3]


def test_a_dataset_may_have_names_for_labels() -> None:
    assert load_data(Named()).class_names == ("x", "y", "z")


def test_classes_of_one_sample_stay_in_training_and_are_counted() -> None:
    labels = np.r_[np.arange(200) % 5, np.arange(5, 17)]
    for seed in range(4):
        data = load_data((np.random.default_rng(0).random((212, 3)), labels), seed=seed)
        assert data.classes == 17
        assert set(data.train.targets.tolist()) == set(range(17))
        assert len(data.validation) and len(data.test)


def test_a_class_that_only_the_test_has_is_counted() -> None:
    x = np.zeros((20, 3), np.float32)
    data = load_data({"train": (x, np.arange(20) % 2), "test": (x, np.arange(20) % 3)})
    assert data.classes == 3


def _linear() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4))


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = _linear()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.float())  # type: ignore[no-any-return]


def _tokens(rows: int = 64) -> nn.Module:
    return nn.Sequential(nn.Embedding(rows, 3), nn.Flatten(), nn.Linear(18, 4))


def _bag() -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(64, 5), nn.Linear(5, 4))


@pytest.mark.parametrize(("network", "kind", "fed"), [
    (_linear, "int64", torch.float32), (_linear, "uint8", torch.float32), (_linear, "int16", torch.float32),
    (_linear, "uint16", torch.float32), (Whole, "int64", torch.int64), (Whole, "int32", torch.float32),
    (_tokens, "int64", torch.int64), (_tokens, "uint8", torch.int64), (_tokens, "int32", torch.int64),
    (_bag, "int64", torch.int64), (_bag, "uint16", torch.int64),
])
def test_the_network_says_what_whole_numbers_are(network: Any, kind: str, fed: torch.dtype) -> None:
    data = load_model(network(), data=load_data((TABLE.astype(kind), Y))).data
    inputs = data.normalise(data.train.inputs)
    assert (data.dtype, inputs.dtype) == (fed, fed)
    rows = {tuple(row) for row in TABLE.tolist()}
    assert {tuple(int(v) for v in row) for row in inputs.tolist()} <= rows, "no table is divided by 255"


def test_negative_whole_numbers_are_values() -> None:
    data = load_model(Whole(), data=load_data((TABLE - 25, Y))).data
    assert data.dtype == torch.int64
    assert int(data.train.inputs.min()) < 0
    with pytest.raises(InputError, match=r"tokens must be from 0 to 63.* but they are from -25 to"):
        load_model(_tokens(), data=load_data((TABLE - 25, Y)))


def test_tokens_beyond_the_table_are_named() -> None:
    with pytest.raises(InputError, match="from 0 to 39, the rows of the network's embedding"):
        load_model(_tokens(40), data=load_data((TABLE, Y)))


def test_the_reading_can_be_said() -> None:
    x = TABLE.astype(np.uint8)
    assert float(load_data({"train": (x, Y), "inputs": "pixels"}).normalise(torch.full((1, 6), 255).byte()).max()) == 1
    assert load_data((x, Y), reading="tokens").dtype == torch.int64
    with pytest.raises(InputError, match="inputs must be one of pixels, values, tokens"):
        load_data((x, Y), reading="table")


def _convolution(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))


@pytest.mark.parametrize(("shape", "channels", "said"), [
    ((40, 8, 8, 3), 3, "turned to"), ((40, 8, 7), 1, "given one channel"), ((40, 1, 8, 8), 3, "repeated"),
])
def test_channels_are_brought_to_where_the_network_has_them(
    shape: tuple[int, ...], channels: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    x = np.random.default_rng(0).random(shape).astype(np.float32)
    with caplog.at_level(logging.INFO):
        data = load_model(_convolution(channels), data=load_data(dict.fromkeys(("train", "val", "test"), (x, Y)))).data
    assert data.input_shape[0] == channels
    assert said in caplog.text
    if said == "turned to":
        assert np.array_equal(data.train.inputs.numpy(), x.transpose(0, 3, 1, 2))


def test_a_mean_for_channels_that_are_last_reaches_them() -> None:
    x = np.ones((40, 8, 8, 3), np.float32)
    data = load_model(_convolution(3), data=load_data({"train": (x, Y), "mean": [0, 1, 2]})).data
    assert data.normalise(data.train.inputs)[0, :, 0, 0].tolist() == [1, 0, -1]


def test_large_arrays_of_a_file_are_mapped_and_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).random((40, 6)).astype(np.float32)
    np.savez(tmp_path / "d e?f#%20.npz", x=np.asfortranarray(x), y=Y)
    read: TaskData = load_data(f"npz:{tmp_path / 'd e?f#%20.npz'}")
    monkeypatch.setattr(npz, "MAPPED_BYTES", 0)
    assert load_data(f"npz:{tmp_path / 'd e?f#%20.npz'}").fingerprint == read.fingerprint
    content = bytearray((tmp_path / "d e?f#%20.npz").read_bytes())
    content[400] ^= 1
    (tmp_path / "bad.npz").write_bytes(bytes(content))
    with pytest.raises(InputError, match="intact"):
        load_data(f"npz:{tmp_path / 'bad.npz'}")


@pytest.mark.parametrize("names", [("images", "labels"), ("X", "Y"), ("train_images", "train_labels"),
                                   ("X_train", "y_train"), ("data", "target")])
def test_usual_names_in_a_file(tmp_path: Path, names: tuple[str, str]) -> None:
    np.savez(tmp_path / "d.npz", **{names[0]: TABLE.astype(np.float32), names[1]: Y})
    assert load_data(f"npz:{tmp_path / 'd.npz'}").classes == 4


def test_inputs_without_labels_in_a_file_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=TABLE, y=Y, x_test=TABLE)
    with pytest.raises(InputError, match="holds x_test and so must hold y_test"):
        load_data(f"npz:{tmp_path / 'd.npz'}")
