"""Arrays of an npz called as the inputs of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autocompress.errors import InputError
from autocompress.tasks.sources.base import Source, SourceContext
from autocompress.tasks.sources.opened import open_source

ARGUMENTS = {"tokens": True, "mask": False}


def opened(path: Path, arguments: dict[str, bool] | None = None, classes: bool = False, **arrays: Any) -> Source:
    np.savez(path / "data.npz", **arrays)
    return open_source(f"npz:{path}/data.npz", SourceContext(arguments=arguments or ARGUMENTS, classes=classes))


def test_inputs_are_called_as_the_arguments(tmp_path: Path) -> None:
    tokens = np.arange(80, dtype=np.int32).reshape(20, 4)
    source = opened(tmp_path, tokens=tokens, mask=tokens % 3 > 0, targets=np.linspace(0, 1, 20), other=np.zeros(3))
    assert source.inputs == ("tokens", "mask") and source.labelled
    sample = source.splits["train"][0]
    assert {name: each.dtype for name, each in sample.items()} == {
        "tokens": torch.int64, "mask": torch.bool, "target": torch.float32}
    row = int(sample["tokens"][0]) // 4
    assert sample["mask"].tolist() == (tokens[row] % 3 > 0).tolist()
    assert float(sample["target"]) == pytest.approx(row / 19)
    assert [len(samples) for samples in source.splits.values()] == [16, 2, 2]


def test_splits_labels_and_bytes_of_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = {f"{name}_{split}": value for split, count in (("train", 12), ("val", 4), ("test", 5)) for name, value in (
        ("x", rng.integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)), ("y", np.array(["b", "a"] * 8)[:count]))}
    source = opened(tmp_path, {"image": True}, True, **parts, mean=[0.5], std=[0.25])
    assert source.inputs == ("input",) and source.class_names == ("a", "b")
    assert [len(samples) for samples in source.splits.values()] == [12, 4, 5]
    sample = source.splits["test"][1]
    assert sample["input"].dtype == torch.uint8 and int(sample["target"]) == 0
    assert np.array_equal(sample["input"].numpy(), parts["x_test"][1].transpose(2, 0, 1))
    assert (source.mean, source.std) == ((0.5,), (0.25,))


def test_without_targets_there_are_no_labels(tmp_path: Path) -> None:
    source = opened(tmp_path, {"x": True}, x=np.zeros((20, 3)))
    assert not source.labelled and set(source.splits["train"][0]) == {"x"}


@pytest.mark.parametrize(("arrays", "said"), [
    ({"z": np.zeros((20, 2))}, "must hold arrays called as the inputs of the network, tokens, mask"),
    ({"mask": np.zeros((20, 2))}, "holds none for tokens"),
    ({"tokens": np.zeros((20, 2)), "train_tokens": np.zeros((20, 2))}, "but there are train_tokens, tokens"),
    ({"x": np.zeros((20, 2)), "inputs": np.zeros((20, 2))}, "the input of the train split must be one array"),
    ({"tokens": np.zeros((20, 2)), "y": np.zeros(20), "labels": np.zeros(20)}, "targets of the train split must be"),
    ({"tokens": np.zeros((20, 2)), "y": np.zeros(19)}, "as many rows each, but have: tokens 20, target 19"),
    ({"tokens": np.zeros((20, 2)), "tokens_test": np.zeros((20, 3))}, r"samples are \(2,\) in training and \(3,\)"),
    ({"tokens": np.zeros((20, 2)), "mask": np.ones((20, 2)), "tokens_val": np.zeros((20, 2))}, "the same arrays"),
    ({"tokens": np.full((20, 2), np.nan)}, "must be finite"),
    ({"tokens": np.array([["a"]] * 20)}, "must be an array of numbers"),
])
def test_arrays_that_cannot_be(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        opened(tmp_path, **arrays)
