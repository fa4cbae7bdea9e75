"""Samples that are not in memory read as those that are."""

from __future__ import annotations

import gc
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autocompress.errors import StorageError
from autocompress.tasks.samples import (
    ChangedSamples,
    ChosenSamples,
    NamedSamples,
    changed,
    take_rows,
)
from autocompress.tasks.stored_samples import SampleWriter, StoredSamples
from autocompress.tensors.named import NamedTensors

ROWS = [slice(None), slice(2, 5), slice(1, 9, 3), slice(7, None), slice(None, None, -1), slice(5, 5), 3, -1,
        torch.tensor([4, 5, 6, 0, 9, 8]), torch.tensor([], dtype=torch.int64), torch.arange(10) % 2 == 0]


def doubled(batch: Tensor) -> Tensor:
    """A change of each sample, of its shape and its type."""
    return batch.flatten(1).float() * 2


@pytest.fixture
def numbers() -> Tensor:
    """Ten samples."""
    return torch.arange(60, dtype=torch.int16).view(10, 3, 2)


@pytest.fixture
def stored(numbers: Tensor, tmp_path: Path) -> StoredSamples:
    """The same on the disk, written in batches."""
    writer = SampleWriter(tmp_path)
    for batch in numbers.split(4):
        writer.append({"x": batch})
    return writer.finish()["x"]


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_rows_are_those_of_a_tensor(rows: slice | Tensor | int, numbers: Tensor, stored: StoredSamples) -> None:
    order = torch.tensor([9, 0, 3, 3, 1, 2, 8, 7, 6, 5])
    expected = numbers[list(range(10))[rows]] if isinstance(rows, slice) else numbers[rows]
    assert torch.equal(stored[rows], expected)
    assert stored[rows].dtype == numbers.dtype
    pairs = ((take_rows(stored, order), numbers[order]), (changed(stored, doubled), doubled(numbers)),
             (take_rows(changed(take_rows(stored, order), doubled), order), doubled(numbers[order][order])))
    for lazy, whole in pairs:
        assert (lazy.shape, lazy.ndim, lazy.dtype, len(lazy)) == (whole.shape, whole.ndim, whole.dtype, len(whole))
        assert torch.equal(lazy[rows], whole[list(range(10))[rows]] if isinstance(rows, slice) else whole[rows])


def test_what_is_in_memory_is_chosen_and_changed_at_once(numbers: Tensor, stored: StoredSamples) -> None:
    order = torch.tensor([3, 1])
    assert torch.equal(take_rows(numbers, order), numbers[order])
    assert torch.equal(changed(numbers, doubled), doubled(numbers))
    assert isinstance(take_rows(stored, order), ChosenSamples)
    assert isinstance(changed(stored, doubled), ChangedSamples)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float32, torch.bfloat16])
def test_numbers_of_every_type_are_stored(dtype: torch.dtype, tmp_path: Path) -> None:
    values = (torch.arange(12) % 3).view(4, 3).to(dtype)
    writer = SampleWriter(tmp_path)
    writer.append({"x": values, "y": values[:, 0]})
    stored = writer.finish()
    assert torch.equal(stored["x"][:], values)
    assert torch.equal(stored["y"][torch.tensor([2, 0])], values[[2, 0], 0])


def test_samples_by_name_are_read_together(numbers: Tensor, stored: StoredSamples) -> None:
    named = NamedSamples({"a": stored, "b": numbers})
    batch = take_rows(named, torch.tensor([5, 1, 2]))[1:]
    assert isinstance(batch, NamedTensors)
    assert len(named) == 10
    assert torch.equal(batch["a"], numbers[[1, 2]])
    assert torch.equal(batch["b"], numbers[[1, 2]])


def test_a_temporary_file_goes_with_its_samples(tmp_path: Path) -> None:
    writer = SampleWriter(tmp_path)
    writer.append({"x": torch.ones(3, 2)})
    stored = writer.finish()["x"]
    copied = pickle.loads(pickle.dumps(stored))
    del copied
    gc.collect()
    assert torch.equal(stored[:], torch.ones(3, 2)), "a copy in another process does not remove the file"
    del stored
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_finished_can_be_discarded(tmp_path: Path) -> None:
    writer = SampleWriter(tmp_path)
    writer.append({"x": torch.ones(3)})
    writer.discard()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="no sample"):
        SampleWriter(tmp_path).finish()


@pytest.mark.parametrize("second", [{"x": torch.ones(2, 4)}, {"x": torch.ones(2, 3).double()}, {"y": torch.ones(2, 3)},
                                    {"x": torch.ones(2, 3), "y": torch.ones(2)}], ids=str)
def test_all_batches_are_like_the_first(second: dict[str, Tensor], tmp_path: Path) -> None:
    writer = SampleWriter(tmp_path)
    writer.append({"x": torch.ones(2, 3)})
    with pytest.raises(ValueError, match="as the first are"):
        writer.append(second)
    writer.discard()


def test_faults_of_the_disk_name_the_file(stored: StoredSamples, tmp_path: Path) -> None:
    stored.path.write_bytes(stored.path.read_bytes()[:100])
    assert len(stored[:8]) == 8
    with pytest.raises(StorageError, match="cut off"):
        stored[8:]
    with pytest.raises(StorageError, match="must be readable"):
        StoredSamples(tmp_path / "absent", (1, 1), torch.uint8)[0]
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="must be writable"):
        SampleWriter(tmp_path / "file").append({"x": torch.ones(1)})
    with pytest.raises(IndexError, match="from 0 to 9"):
        stored[torch.tensor([10])]


def test_threads_read_at_once(tmp_path: Path) -> None:
    values = torch.arange(4000).view(1000, 4)
    writer = SampleWriter(tmp_path)
    writer.append({"x": values})
    stored = writer.finish()["x"]
    rows = [torch.randperm(1000, generator=torch.Generator().manual_seed(seed)) for seed in range(20)]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(read, values[order]) for order, read in zip(rows, pool.map(stored.read, rows),
                                                                           strict=True))
