from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autocompress.errors import InputError
from autocompress.tasks import samples, splits
from autocompress.tasks.data_checks import checked
from autocompress.tasks.splits import SPLITS, Split, TaskData, complete, phases
from autocompress.tasks.stored_samples import SampleWriter


def test_phases_are_stratified_and_seeded() -> None:
    targets = torch.arange(1000) % 7
    numbers = phases(targets, 5, seed=1)
    for number in range(5):
        counts = torch.bincount(targets[numbers == number], minlength=7)
        assert counts.max() - counts.min() <= 2
    assert torch.equal(numbers, phases(targets, 5, seed=1))
    assert not torch.equal(numbers, phases(targets, 5, seed=2))


def _split(count: int) -> Split:
    return Split(torch.arange(count, dtype=torch.float32)[:, None], torch.arange(count) % 2)


@pytest.mark.parametrize(
    ("counts", "lengths"),
    [
        ({"train": 100}, (80, 10, 10)),
        ({"train": 100, "test": 7}, (90, 10, 7)),
        ({"train": 100, "validation": 20}, (100, 10, 10)),
        ({"train": 100, "validation": 20, "test": 7}, (100, 20, 7)),
    ],
)
def test_missing_splits_are_made_without_overlap(counts: dict[str, int], lengths: tuple[int, ...]) -> None:
    parts = complete({name: _split(count) for name, count in counts.items()}, seed=0)
    assert tuple(len(part) for part in parts.values()) == lengths
    if list(counts) == ["train"]:
        assert torch.equal(torch.cat([p.inputs for p in parts.values()]).sort(0)[0], _split(100).inputs)


def test_validation_alone_is_refused() -> None:
    with pytest.raises(InputError, match="training split"):
        complete({"test": _split(3)}, seed=0)


def test_normalise_divides_pixels_but_not_floats(data: TaskData) -> None:
    named = replace(data, mean=(0.5,), std=(0.25,))
    white = torch.full((2, 1, 8, 8), 255, dtype=torch.uint8)
    assert torch.equal(named.normalise(white), torch.full((2, 1, 8, 8), 2.0))
    assert torch.equal(named.normalise(torch.ones(2, 1, 8, 8)), torch.full((2, 1, 8, 8), 2.0))
    assert data.normalise(white).dtype == torch.float32


def test_fingerprint_sees_every_part_that_matters(data: TaskData) -> None:
    altered = data.validation.inputs.clone()
    altered[3, 0, 4, 4] ^= 1
    others = [
        replace(data, validation=Split(altered, data.validation.targets)),
        replace(data, test=Split(data.test.inputs, data.test.targets.flip(0))),
        replace(data, mean=(0.1,)),
        replace(data, train=data.validation, validation=data.train),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 5
    ways = [replace(data, pad=1), replace(data, flip=True), replace(data, augment=lambda x, g: x),
            replace(data, augment=lambda x, g: x.flip(1)), replace(data, reading="values")]
    assert len({data.fingerprint, *(way.fingerprint for way in ways)}) == 6
    assert replace(data, name="other").fingerprint == data.fingerprint


def test_augmentation_is_settled_by_the_generator(data: TaskData) -> None:
    data = replace(data, pad=2, flip=True)
    batch = data.train.inputs[:16]
    once, again = (data.augmented(batch, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(once, again)
    assert once.shape == batch.shape
    assert once.dtype == torch.uint8
    assert not torch.equal(once, batch)


def test_augmentation_is_a_shift_or_a_mirrored_shift(data: TaskData) -> None:
    data = replace(data, pad=1, flip=True)
    batch = data.normalise(data.train.inputs[:32])
    out = data.augmented(batch, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(batch, (1,) * 4)
    windows = [padded[:, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    options = torch.stack(windows + [window.flip(3) for window in windows])
    matches = (options == out).flatten(2).all(dim=2)
    assert matches.any(dim=0).all()
    assert matches.any(dim=1).sum() > 6  # many of the 18 outcomes occur


def test_augmentation_leaves_others_alone(data: TaskData) -> None:
    batch = data.train.inputs[:4]
    assert data.augmented(batch, torch.Generator()) is batch
    rows = torch.zeros(3, 5)
    assert replace(data, pad=2).augmented(rows, torch.Generator()) is rows


def test_a_task_brings_its_own_augmentation(data: TaskData) -> None:
    def noisy(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return inputs ^ torch.randint(0, 4, inputs.shape, generator=generator, dtype=torch.uint8)

    mine = replace(data, augment=noisy)
    assert torch.equal(mine.train_view(1, 0), mine.train_view(1, 0))
    assert not torch.equal(mine.train_view(1, 0), mine.train_view(2, 0))
    assert int((mine.train_view(1, 0) ^ data.train.inputs).max()) == 3
    both = replace(mine, pad=1, flip=True)
    shifted = replace(data, pad=1, flip=True).train_view(1, 0)
    assert int((both.train_view(1, 0) ^ shifted).max()) == 3, "after the shift"
    rows = replace(data, augment=lambda inputs, generator: inputs.flip(1))
    assert torch.equal(rows.augmented(torch.arange(6.0).reshape(2, 3), torch.Generator()),
                       torch.tensor([[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]])), "not only images"


@pytest.mark.parametrize("wrong", [lambda x, _: x.float(), lambda x, _: x[1:], lambda x, _: None],
                         ids=["type", "shape", "nothing"])
def test_an_augmentation_that_gives_back_something_else_is_refused(data: TaskData, wrong: Any) -> None:
    with pytest.raises(InputError, match="`augment` must give back what it was given"):
        replace(data, augment=wrong).train_view(1, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 1}, "at least 2 classes"),
        ({"classes": 2}, "from 0 to 1"),
        ({"mean": (0.1, 0.2)}, "1 or 1 values"),
        ({"std": (0.0,)}, "above zero"),
        ({"pad": -1}, "pad must be 0"),
        ({"test": Split(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))}, "test split is empty"),
        ({"test": Split(torch.zeros(2, 1, 8, 9), torch.tensor([0, 1]))}, r"shaped as in training, \(1, 8, 8\)"),
        ({"test": Split(torch.zeros(2, 1, 8, 8), torch.tensor([0]))}, "one label for each sample"),
        ({"test": Split(torch.zeros(2, 1, 8, 8), torch.tensor([0, -1]))}, "from -1 to 0"),
        ({"test": Split(torch.full((2, 1, 8, 8), torch.nan), torch.tensor([0, 1]))}, "2 of 2 samples hold NaN"),
        ({"test": Split(torch.zeros(2, 1, 8, 8).double(), torch.tensor([0, 1]))}, "whole numbers or float32"),
    ],
)
def test_what_cannot_be_used_is_refused(data: TaskData, change: dict[str, object], message: str) -> None:
    assert checked(data) is data
    with pytest.raises(InputError, match=message):
        checked(replace(data, **change))  # type: ignore[arg-type]


def test_one_class_in_training_is_refused(data: TaskData) -> None:
    only = Split(data.train.inputs, torch.full_like(data.train.targets, 2))
    with pytest.raises(InputError, match="all labels are 2"):
        checked(replace(data, train=only))


def _stored(data: TaskData, folder: Path) -> TaskData:
    """The same data with the samples on a disk."""
    parts = {}
    for name in SPLITS:
        writer = SampleWriter(folder)
        writer.append({"x": getattr(data, name).inputs})
        parts[name] = Split(writer.finish()["x"], getattr(data, name).targets)
    return replace(data, **parts)


def test_data_on_a_disk_are_those_in_memory(data: TaskData, tmp_path: Path) -> None:
    stored, rows = _stored(data, tmp_path), torch.tensor([3, 0, 7])
    assert checked(stored).fingerprint == data.fingerprint
    assert torch.equal(stored.inputs("train", rows), data.inputs("train", rows))
    for (name, lazy), whole in zip(complete({"train": stored.train}, 1).items(),
                                   complete({"train": data.train}, 1).values(), strict=True):
        assert torch.equal(lazy.inputs[:], whole.inputs), name
        assert torch.equal(lazy.targets, whole.targets), name


@pytest.mark.parametrize("way", [{"pad": 2}, {"flip": True}, {"pad": 1, "flip": True}, {}], ids=str)
def test_views_of_data_on_a_disk_are_those_in_memory(way: dict[str, Any], data: TaskData, tmp_path: Path) -> None:
    stored, whole = replace(_stored(data, tmp_path), **way), replace(data, **way)
    rows = torch.tensor([5, 1, 2, 40])
    for view in (1, 2):
        assert torch.equal(stored.train_view(view, 3)[rows], whole.train_view(view, 3)[rows])
        assert torch.equal(stored.train_view(view, 3)[:], whole.train_view(view, 3))


def test_large_tensors_are_augmented_when_they_are_read(data: TaskData, monkeypatch: pytest.MonkeyPatch) -> None:
    data = replace(data, pad=1, flip=True)
    whole = data.train_view(1, 0)
    monkeypatch.setattr(splits, "VIEW_BYTES", 1)
    assert isinstance(whole, torch.Tensor) and not isinstance(data.train_view(1, 0), torch.Tensor)
    assert torch.equal(data.train_view(1, 0)[:], whole)


def test_a_sample_is_augmented_in_one_way_whatever_is_read_with_it(data: TaskData, tmp_path: Path) -> None:
    def noisy(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return inputs ^ torch.randint(0, 4, inputs.shape, generator=generator, dtype=torch.uint8)

    view = replace(_stored(data, tmp_path), augment=noisy).train_view(1, 0)
    assert torch.equal(view[torch.tensor([5, 2])], view[:][[5, 2]])
    assert not torch.equal(view[2] ^ data.train.inputs[2], view[5] ^ data.train.inputs[5])
    with pytest.raises(InputError, match="must give back"):
        replace(_stored(data, tmp_path), augment=lambda x, _: x.float()).train_view(1, 0)[:1]


def test_samples_stand_for_data_that_are_too_large_to_be_read_whole(
        data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    stored = _stored(data, tmp_path)
    monkeypatch.setattr(samples, "READ_WHOLE_BYTES", 64)
    monkeypatch.setattr(samples, "SAMPLED_ROWS", 4)
    with caplog.at_level(logging.INFO):
        assert checked(stored).fingerprint not in (data.fingerprint, "")
    assert "train split: the fingerprint is of shapes, labels and sampled contents" in caplog.text
    assert replace(stored).fingerprint == stored.fingerprint
    assert replace(stored, train=stored.train.take(torch.arange(20))).fingerprint != stored.fingerprint
