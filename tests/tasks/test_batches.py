"""Batches of a task: every form they are given in, recorded, read by rows and mixed anew."""

from __future__ import annotations

import itertools
import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from autocompress.errors import InputError
from autocompress.tasks import recording, row_writer
from autocompress.tasks.batch_sources import batches_of, collated
from autocompress.tasks.batch_split import GatheredBatches, completed
from autocompress.tasks.batches import Batches, BatchRecorder
from autocompress.tasks.stored_samples import StoredSamples

X = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(50) % 5


@dataclass
class Pair:
    x: Tensor
    y: Tensor


class Fields(NamedTuple):
    x: Tensor
    y: Tensor


class Samples(Dataset[Any]):
    """Map-style samples; `noise` is drawn when they are read."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> Any:
        return X[index] + self.noise * torch.rand(1) * random.random() * np.random.rand(), int(Y[index])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(X, Y.tolist(), strict=True)


def read(source: Any, **options: Any) -> Batches:
    recorder = BatchRecorder(options.get("inputs"), "train", options.get("first"))
    for batch in batches_of(source, "train"):
        recorder.add(batch)
    return recorder.finish()


def in_order(batches_: Batches, name: str = "") -> Tensor:
    return batches_.column(name)[0:batches_.samples]


FORMS: dict[str, Any] = {
    "tuple of arrays": (X, Y),
    "numpy arrays": (X.numpy(), Y.numpy()),
    "iterable of batches": [(X[:32], Y[:32]), (X[32:], Y[32:])],
    "dataset": TensorDataset(X, Y),
    "samples": Samples(),
    "stream": Stream(),
    "loader": DataLoader(TensorDataset(X, Y), batch_size=16),
    "loader that shuffles": DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True, drop_last=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_splits_of_every_form_have_the_same_samples(form: str) -> None:
    split = read(FORMS[form])
    assert split.samples == 50 and torch.equal(in_order(split), X)
    labels = torch.cat([torch.as_tensor(batch[1]) for batch in split])
    assert torch.equal(labels, Y)
    gathered = split.gather(torch.tensor([40, 3, 17]))
    assert torch.equal(torch.as_tensor(gathered[0]), X[[40, 3, 17]])
    assert torch.equal(torch.as_tensor(gathered[1]), Y[[40, 3, 17]])
    assert isinstance(gathered[0], np.ndarray) == (form == "numpy arrays")


@pytest.mark.parametrize("batch", [{"x": X, "y": Y}, Pair(X, Y), Fields(X, Y)], ids=["dict", "dataclass", "named"])
def test_batches_keep_their_type(batch: Any) -> None:
    split = read([batch])
    assert type(split[0]) is type(batch) is type(split.gather(torch.tensor([1])))
    assert set(split.input_columns) == {"x", "y"}
    assert torch.equal(in_order(split, "x"), X) and torch.equal(in_order(split, "y"), Y)


def test_what_is_large_is_read_from_files(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = read((X, Y))
    monkeypatch.setattr(row_writer, "HELD_BYTES", 500)
    stored = read((X, Y))
    assert isinstance(stored.column(""), StoredSamples) and isinstance(kept.column(""), Tensor)
    assert stored.fingerprint == kept.fingerprint and torch.equal(in_order(stored), X)
    other = pickle.loads(pickle.dumps(stored))
    assert torch.equal(other[0][0], X) and torch.equal(other.gather(torch.tensor([7, 2]))[1], Y[[7, 2]])
    place = stored.column("").path
    assert place.is_file()
    del stored, other
    assert not place.exists()


def test_inputs_that_are_part_of_a_batch_are_kept_once() -> None:
    whole, read_by_function = read((X, Y)), read((X, Y), inputs=lambda batch: {"a": batch[0], "b": batch[0]})
    assert in_order(read_by_function, "b").data_ptr() != 0 and torch.equal(in_order(read_by_function, "b"), X)
    assert len(pickle.dumps(whole)) < 1.5 * X.nbytes + 8000
    changed = read((X, Y), inputs=lambda batch: batch[0] * 2)
    assert torch.equal(in_order(changed), 2 * X) and torch.equal(changed[0][0], X)


def test_boxes_of_different_numbers_stay_lists() -> None:
    boxes = [{"boxes": torch.rand(i % 3, 4), "labels": torch.zeros(i % 3)} for i in range(12)]
    samples = [{"image": X[i], "target": boxes[i], "name": f"picture {i}"} for i in range(12)]
    batch = collated(samples)
    assert batch["image"].shape == (12, 3, 4) and batch["target"] == boxes and batch["name"][3] == "picture 3"
    split = read([batch, collated(samples[:7])])
    gathered = split.gather(torch.tensor([13, 5, 1]))
    assert gathered["name"] == ["picture 1", "picture 5", "picture 1"]
    assert [len(each["boxes"]) for each in gathered["target"]] == [1, 2, 1]


def test_images_of_a_list_are_not_taken_for_rows() -> None:
    """A batch of three pictures of three channels."""
    images = list(torch.rand(3, 3, 5, 5))
    split = read([{"x": X[:3], "images": images}])
    assert torch.equal(split[0]["images"][1], images[1])
    assert torch.equal(split.gather(torch.tensor([2, 0]))["images"][0], images[2])


def test_boxes_of_all_pictures_in_one_array_are_left_whole() -> None:
    def batch(boxes: int) -> Any:
        return {"x": X[:8], "boxes": torch.rand(boxes, 6)}

    split = read([batch(8), batch(5)])
    assert split.structure.whole and split[1]["boxes"].shape == (5, 6)
    with pytest.raises(InputError, match="cannot be taken out"):
        split.gather(torch.tensor([0]))


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_random_data_are_the_same_every_time(noise: float) -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    one, other = read(Samples(noise)), read(DataLoader(Samples(noise), batch_size=64, shuffle=True))
    assert torch.equal(in_order(one), in_order(read(Samples(noise))))
    assert one.fingerprint == read(Samples(noise)).fingerprint and other.samples == 50
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


def test_content_tells_batches_apart() -> None:
    prints = {read(source).fingerprint for source in (
        (X, Y), (X + 1, Y), (X, Y + 1), (X, Y, Y), [(X[:9], Y[:9]), (X[9:], Y[9:])], [(X, Y, ["a"] * 50)],
        [(X, Y, ["b"] * 50)])}
    assert len(prints) == 7
    assert read([(X, Y, ["a"] * 50)]).fingerprint == read([(X, Y, ["ab"[:1] for _ in range(50)])]).fingerprint


@pytest.mark.parametrize(("source", "message"), [
    ([(X, Y), {"x": X}], r"batch 2 of the train split must be built as the first .* dict of x"),
    ([(X, Y), (X, Y, Y)], "tuple of 3 in place of tuple of 2"),
    ([{"x": X}, {"x": X, "y": Y}], "dict of 2"),
    ([{"x": X}, {"z": X}], "with x, but is dict of z"),
    ([(X, Y), (X, Y.double())], r"float64 with 1 axes in place of a tensor of int64 .* at \[1\]"),
    ([(X, Y), (X, Y.numpy())], "an array of int64"),
    ([(X, ["a"] * 50), (X, ["a"] * 3)], r"a list in place of a list of one entry a sample"),
    ([], "is empty"), (iter([]), "is empty"), (TensorDataset(X[:0]), "is empty"), ([(X[:0], Y[:0])], "row for each"),
    (None, "must be batches, a Dataset"), ("npz:file", "must be batches, a Dataset"), (3, "must be batches, a Dataset"),
    ([None], "say which are inputs"), ([("a", Y)], "say which are inputs"), ([{}], "say which are inputs"),
    ((X, Y[:3]), "have 3 and 50 rows"),
    ([(X, Y, lambda: 0)], "cannot be kept"),
])
def test_batches_that_cannot_be_used_are_said(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(source)


@pytest.mark.parametrize(("inputs", "message"), [
    (lambda batch: batch[5], "inputs failed for batch 1 .* IndexError"),
    (lambda batch: None, "inputs must give a tensor .* NoneType"),
    (lambda batch: {"a": 3}, "int for 'a'"),
    (lambda batch: {"a": batch[0], "b": batch[0][:3]}, "50, 3 rows"),
    (lambda batch: {"a" if len(batch[0]) == 50 else "b": batch[0]}, "must give the inputs a"),
])
def test_inputs_that_are_none_are_said(inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read([(X, Y), (X[:3], Y[:3])], inputs=inputs)


def test_samples_may_be_of_several_shapes_but_not_of_several_types() -> None:
    split = read([{"x": X, "t": X}, {"x": X, "t": X[:, :2]}])
    assert torch.equal(split[1]["t"], X[:, :2]) and split.column("x").shape == (100, 3, 4)
    assert [tuple(part.shape) for part in split.column("t").parts] == [(50, 3, 4), (50, 2, 4)]
    with pytest.raises(InputError, match="pad all"):
        split.gather(torch.tensor([0, 70]))
    split = read([X, X[:10]], inputs=lambda batch: batch if len(batch) == 50 else batch.double())
    with pytest.raises(InputError, match=r"one shape and type, but samples are float32 \(3, 4\) and float64 \(3, 4\)"):
        split.column("")


class Broken(Dataset[Any]):
    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> Any:
        if index == 100:
            raise OSError("the disk is gone")
        return X[0], 0


def test_a_split_that_raises_in_the_middle_is_said() -> None:
    with pytest.raises(InputError, match="batch 2 raised OSError: the disk is gone"):
        read(Broken())


def test_what_raised_in_a_worker_of_a_loader_is_said() -> None:
    with pytest.raises(InputError, match="batch 2 raised OSError: the disk is gone"):
        read(DataLoader(Broken(), batch_size=64, num_workers=1))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return itertools.repeat((X[0], 0))


@pytest.mark.parametrize("source", [itertools.repeat((X, Y)), DataLoader(Endless(), batch_size=64)])
def test_a_split_that_does_not_end_is_bounded(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import autocompress

    monkeypatch.setattr(recording, "MOST_SAMPLES", 1000)
    with pytest.raises(InputError, match=r"must end, but gave 1,0\d\d samples"):
        autocompress.Task(train=source)


class Unequal(Dataset[Any]):
    """Pictures of several sizes."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, number: int) -> Any:
        return torch.zeros(3, 8 + number % 3, 8), number


@pytest.mark.parametrize("source", [DataLoader(Unequal(), 4), [
    {"image": [torch.zeros(3, 8, 8), torch.zeros(3, 9, 8)]}]])
def test_samples_of_several_shapes_are_told_what_to_do(source: Any) -> None:
    with pytest.raises(InputError, match=r"3, \d+, 8.* and .*3, \d+, 8.*: bring pictures to one size .*, and pad"):
        read(source).column("")


class Encoder(nn.Module):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return input_ids * attention_mask


def padded_to_the_longest(samples: list[int]) -> Any:
    """A batch of texts as a collator of transformers makes it."""
    longest = 4 + max(samples) % 3
    return {"input_ids": torch.zeros(len(samples), longest, dtype=torch.long),
            "attention_mask": torch.ones(len(samples), longest, dtype=torch.long)}


def test_texts_that_are_padded_batch_by_batch_are_told_what_to_do() -> None:
    import autocompress

    alike, ragged = DataLoader([*range(2)] * 5, 2, collate_fn=padded_to_the_longest), DataLoader(
        [*range(20)], 2, collate_fn=padded_to_the_longest)
    autocompress.Task(train=alike, validation=ragged, test=alike).read_by(Encoder())
    with pytest.raises(InputError, match=r'input_ids must have one shape.*\(\d,\) and .*padding="max_length"'):
        autocompress.Task(train=ragged, validation=alike, test=alike).read_by(Encoder())


class Large(Dataset[Any]):
    """100,000 samples of a kilobyte each, of which none may be read that is not needed to tell that."""

    read = 0

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, number: int) -> Any:
        self.read += 1
        return torch.zeros(256), number % 3


def test_what_takes_too_much_of_the_disk_is_told_by_the_first_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    import autocompress

    monkeypatch.setattr(recording, "HELD_BYTES", 0)
    large = Large()
    with pytest.raises(InputError, match=r"at most 50.00 MB of the disk, but with the train split they are "
                                         r"10\d.\d\d MB: allow more by --cache-size"):
        autocompress.Task(train=large, cache_size="50MB")
    assert large.read <= 256
    with pytest.raises(InputError, match="train split must end, but gave"):
        autocompress.Task(train=({"x": torch.zeros(64, 256)} for _ in itertools.count()), cache_size="50MB")
    monkeypatch.setattr(recording.shutil, "disk_usage", lambda folder: SimpleNamespace(free=80_000_000))
    with pytest.raises(InputError, match=r"must fit on the disk of .*, of which 72.00 MB can be used"):
        autocompress.Task(train=Large())


@pytest.mark.parametrize(("at_hand", "sizes"), [
    (("train",), (40, 5, 5)), (("train", "test"), (45, 5, 50)), (("train", "validation"), (50, 25, 25)),
    (("train", "validation", "test"), (50, 50, 50)),
])
def test_splits_that_are_missing_are_held_out(at_hand: Any, sizes: Any) -> None:
    splits = completed({name: read((X, Y)) for name in at_hand}, "data")
    assert tuple(splits[name].samples for name in ("train", "validation", "test")) == sizes
    for split in splits.values():
        rows = split.column("")[0:split.samples]
        labels = torch.cat([batch[1] for batch in split])
        assert torch.equal(torch.cat([batch[0] for batch in split]), rows)
        assert labels.bincount(minlength=5).float().std() == 0, "each class is spread evenly"
        assert torch.equal(split.gather(torch.tensor([3, 0]))[0], rows[[3, 0]])
        assert [piece for at in split.pieces(3) for piece in range(at.start, at.stop)] == [*range(split.samples)]
    if at_hand == ("train",):
        together = torch.cat([split.column("")[0:split.samples] for split in splits.values()])
        assert torch.equal(together.flatten(1).sum(1).sort().values, X.flatten(1).sum(1).sort().values)


def test_batches_that_cannot_be_taken_apart_are_held_out_whole() -> None:
    train = [{"x": X[:4] + i, "boxes": torch.rand(i, 6)} for i in range(20)]
    splits = completed({"train": read(train)}, "data")
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [16, 2, 2]
    split = splits["validation"]
    assert torch.equal(torch.cat([batch["x"] for batch in split]), split.column("x")[0:8])
    with pytest.raises(InputError, match=r"10 batches or more, but there are 5 \(no samples"):
        completed({"train": read(train[:5])}, "data")
    with pytest.raises(InputError, match="10 samples or more, but there are 4"):
        completed({"train": read((X[:4], Y[:4]))}, "data")
    with pytest.raises(InputError, match="needs a train split"):
        completed({"test": read((X, Y))}, "data")


def test_splits_may_hold_targets_of_other_types() -> None:
    """Shares of classes to be trained towards, labels to be measured by; tensors here and arrays there."""
    shares = torch.eye(3)[Y % 3]
    first = read((X, shares)).structure
    again = read((X.numpy(), Y.numpy()), first=first)
    assert again.samples == 50
    assert read(DataLoader(TensorDataset(X, Y, Y), 16), first=first).samples == 50  # lists of 3 in place of tuples of 2
    for given, message in (([{"x": X}], "dict of 1 in place of tuple of 2"), (X, "a tensor of .* in place of tuple")):
        with pytest.raises(InputError, match=message):
            read(given, first=first)


def test_a_batch_for_a_loss_can_be_cut_like_a_tensor() -> None:
    """As where memory does not suffice for a whole one."""
    split = completed({"train": read((X, Y))}, "data")["train"]
    whole = GatheredBatches(split, split.samples)[torch.tensor([3, 1, 2])].to("cpu")
    assert whole[slice(0, 3)] is whole
    for part in (slice(0, 1), slice(1, 3)):
        for values, all_values in zip(whole[part].content, whole.content, strict=True):
            assert torch.equal(values, all_values[part])
    assert GatheredBatches(None, 4)[slice(0, 4)][slice(0, 2)].content is None
