"""Samples of several shapes: read in batches of one shape, trained on in one, scored in all."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import autocompress
from autocompress.errors import InputError
from autocompress.tasks import row_writer
from autocompress.tasks.batch_sources import batches_of
from autocompress.tasks.models import load_network
from autocompress.tasks.row_writer import ShapedWriter
from autocompress.tasks.shaped_samples import ShapedSamples
from autocompress.tasks.stored_samples import StoredSamples


class Sizes(Dataset[Any]):
    """Pictures of several heights, and their masks: which pixels of the first channel are above the second's."""

    def __init__(self, samples: int, heights: tuple[int, ...] = (8, 8, 12), named: bool = False) -> None:
        self.samples, self.heights, self.named = samples, heights, named

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> Any:
        height = self.heights[number % len(self.heights)]
        image = torch.rand(2, height, 8, generator=torch.Generator().manual_seed(number))
        mask = (image[0] > image[1]).long()
        return {"image": image, "target": mask} if self.named else (image, mask)


class Maps(nn.Module):
    """Scores of two classes for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(2, 12, 3, 1, 1), nn.Conv2d(12, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.first(image).relu()) + 0.1 * image


class Fixed(nn.Sequential):
    """A network of one size of pictures."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(128, 2))


@pytest.mark.parametrize("held_bytes", [2**20, 50])
def test_rows_of_several_shapes_are_kept(held_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_writer, "HELD_BYTES", held_bytes)
    batches = [torch.rand(4, 3), torch.rand(2, 5), torch.rand(3, 3)]
    writer, other = ShapedWriter(), ShapedWriter()
    for batch in batches:
        writer.append(batch)
        other.append(batch.flatten()[:, None])
    assert writer.rows == 9 and writer.bytes == 4 * 31 and writer.fingerprint != other.fingerprint
    kept = writer.finish()
    rows = pickle.loads(pickle.dumps(kept))
    assert isinstance(rows, ShapedSamples) and isinstance(rows.parts[0], StoredSamples) is (held_bytes == 50)
    assert torch.equal(rows[:4], batches[0]) and torch.equal(rows[4:6], batches[1])
    assert torch.equal(rows[torch.tensor([7, 0])], torch.stack([batches[2][1], batches[0][0]]))
    with pytest.raises(InputError, match=r"one shape to be mixed, but they have \(3,\) and \(5,\)"):
        rows[3:5]
    taken = rows.taken(torch.tensor([5, 4, 8]))
    assert isinstance(taken, ShapedSamples) and taken.shape == (3, 5) and torch.equal(taken[1], batches[1][0])
    assert torch.equal(rows.taken(torch.tensor([8, 1]))[:], torch.stack([batches[2][2], batches[0][1]]))
    assert isinstance(other.finish(), (Tensor, StoredSamples))


@pytest.mark.parametrize("named", [False, True])
def test_samples_of_a_dataset_are_grouped_by_shape(named: bool) -> None:
    batches = [*batches_of(Sizes(250, named=named), "train")]
    images = [batch["image"] if named else batch[0] for batch in batches]
    assert [tuple(image.shape) for image in images] == [(64, 2, 8, 8), (64, 2, 8, 8), (64, 2, 12, 8), (39, 2, 8, 8),
                                                       (19, 2, 12, 8)]
    assert torch.equal(images[0][2], Sizes(4)[3][0]), "in order"


@pytest.mark.parametrize("named", [False, True])
def test_held_out_samples_are_of_all_shapes_and_trained_on_is_one(named: bool,
                                                                 caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    task = autocompress.Task(train=Sizes(120, named=named), metric="accuracy")
    load_network(Maps().eval(), task)
    assert 60 < task.samples("train") < 70 and "training samples are trained on" in caplog.text
    assert task.train_view(1, 0)[:].shape[1:] == (2, 8, 8) and task.samples("validation") == 12
    pieces = [task.inputs("validation", rows) for rows in task.rows("validation", 5)]
    assert {piece.shape[2] for piece in pieces} == {8, 12} and sum(map(len, pieces)) == 12


@pytest.mark.usefixtures("short_searches")
@pytest.mark.parametrize("metric", [["accuracy", "miou"], None])
def test_a_search_scores_pictures_of_all_sizes(metric: Any, tmp_path: Path) -> None:
    net, validation = Maps().eval(), Sizes(30, (8, 12, 10))
    task = autocompress.Task(train=Sizes(64, (8,)), validation=validation, test=Sizes(20, (12, 10)), metric=metric,
                             outputs=None if metric else {"output": "classes"})
    result = autocompress.search(net, task=task, budget="1200B", trials=2, epochs=1, dynamic=True, out=tmp_path / "s")
    assert result.best is not None
    if metric:
        with torch.no_grad():
            right = [float((net(image[None])[0].argmax(0) == mask).double().mean())
                     for image, mask in (validation[i] for i in range(30))]
        assert result.baseline["accuracy"] == pytest.approx(sum(right) / 30, abs=0.002)


def test_openvino_says_which_sizes_its_files_leave_free() -> None:
    pytest.importorskip("openvino")
    task = autocompress.Task(train=Sizes(64, (8,)), validation=Sizes(20), metric="accuracy")
    traced = autocompress.trace(Maps().eval(), task=task, format="openvino", dynamic=True)
    assert 0 <= traced.evaluate(autocompress.Plan()).metrics["accuracy"] <= 1


class Tagger(nn.Module):
    """Scores of five classes for each token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.body, self.head = nn.Embedding(50, 16), nn.Linear(16, 24), nn.Linear(24, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.body(self.embed(input_ids) * attention_mask[:, :, None]).relu())


def texts(lengths: tuple[int, ...]) -> list[dict[str, Tensor]]:
    """Batches, each of its length."""
    tokens = [torch.randint(0, 50, (16, length), generator=torch.Generator().manual_seed(length)) for length in lengths]
    masks = [(torch.arange(length) < 3 + torch.arange(16)[:, None] % (length - 2)).long() for length in lengths]
    return [{"input_ids": each, "attention_mask": mask, "labels": torch.where(mask == 1, each % 5, -100)}
            for each, mask in zip(tokens, masks, strict=True)]


@pytest.mark.parametrize("metric", ["accuracy", None])
def test_texts_of_several_lengths_are_scored(metric: Any) -> None:
    task = autocompress.Task(train=texts((10, 10, 8, 10, 10)), validation=texts((7, 10, 12)), test=texts((9, 11)),
                             metric=metric)
    traced = autocompress.trace(Tagger().eval(), task=task, dynamic=True)
    assert task.samples("train") == 64 and task.samples("validation") == 48
    plan = autocompress.Plan.of([autocompress.Step("body", "quantize", {"weight_bits": 4, "activation_bits": 32})])
    metrics = traced.evaluate(plan).metrics
    assert 0 < metrics["divergence"] < 1 and metrics[task.metric.name] >= 0
    long = texts((12,))
    long[0]["input_ids"][3, 11] = 50
    with pytest.raises(InputError, match="validation split: tokens of input_ids must be from 0 to 49"):
        load_network(Tagger().eval(), autocompress.Task(train=texts((10, 10)), validation=long, test=texts((9,))))


def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a candidate was evaluated")

    monkeypatch.setattr("autocompress.study.evaluator.Evaluator.outcome", refuse)


def test_sizes_that_the_file_does_not_take_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing_is_trained(monkeypatch)
    task = autocompress.Task(train=Sizes(64, (8,)), validation=Sizes(20), test=Sizes(20), metric="accuracy")
    with pytest.raises(InputError, match=r"samples of the validation split must have the size that the file takes in "
                                         r"input, \(2, 8, 8\), but have \(2, 12, 8\): .*--dynamic"):
        autocompress.search(Maps().eval(), task=task, budget="1200B", trials=1, out=tmp_path / "s")


def test_networks_and_data_of_one_size() -> None:
    task = autocompress.Task(train=Sizes(64, (8,)), validation=Sizes(20), test=Sizes(20))
    with pytest.raises(InputError, match=r"validation split are float32 \(2, 12, 8\), .* the network takes no other"):
        load_network(Fixed().eval(), task)
    few = autocompress.Task(train=Sizes(60, (8, 9, 10)), metric="accuracy")
    with pytest.raises(InputError, match=r"have one shape, or 32 of them, but samples are .*, and 1\d have the most"):
        load_network(Maps().eval(), few)
