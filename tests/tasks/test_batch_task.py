"""`autocompress.Task` with networks of several kinds: the contract of a task, and whole small searches."""

from __future__ import annotations

import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autocompress
from autocompress.errors import InputError
from autocompress.tasks.base import Task
from autocompress.tasks.score import Score
from autocompress.testing.task_contract import TaskContract


def squares(samples: int = 240, seed: int = 0) -> dict[str, Tensor]:
    """Noisy pictures with a bright square in one of four quarters, the quarter, its middle and its mask."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.4 * torch.randn(samples, 1, 12, 12, generator=generator)
    quarter = torch.randint(0, 4, (samples,), generator=generator)
    mask = torch.zeros(samples, 12, 12, dtype=torch.int64)
    for row, place in enumerate(quarter.tolist()):
        mask[row, place // 2 * 6:place // 2 * 6 + 6, place % 2 * 6:place % 2 * 6 + 6] = 1
    middle = torch.stack([quarter // 2, quarter % 2], 1).float()
    return {"image": image + 1.5 * mask[:, None], "label": quarter, "middle": middle, "mask_of_square": mask}


DATA = squares()


class TwoHeads(nn.Module):
    """Classes, and a place in numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU(),
                                  nn.Flatten())
        self.classes, self.place = nn.Linear(24 * 9, 4), nn.Linear(24 * 9, 2)

    def forward(self, image: Tensor) -> dict[str, Tensor | None]:
        features = self.body(image)
        return {"logits": self.classes(features), "place": self.place(features), "loss": None}


class Segmenter(nn.Module):
    """A map of two classes, with a skip around a smaller map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(1, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.up, self.last = nn.Conv2d(16, 8, 3, 1, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x).relu()
        up = F.interpolate(self.up(self.down(first).relu()).relu(), scale_factor=2.0)
        return self.last(torch.cat([first, up], 1))


class Embedding(nn.Module):
    """A vector of a sequence of tokens, the mean over what its mask leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(30, 24), nn.Linear(24, 48)
        self.head = nn.Linear(48, 16)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.body(self.embed(input_ids)).relu()
        mask = attention_mask[:, :, None].float()
        return self.head((hidden * mask).sum(1) / mask.sum(1))


def sentences(samples: int = 240) -> dict[str, Tensor]:
    """Tokens of the lower or the upper half of the words, as the label says, of 3 to 10 tokens."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 2, (samples,), generator=generator)
    ids = torch.randint(1, 15, (samples, 10), generator=generator) + 15 * label[:, None]
    mask = (torch.arange(10) < torch.randint(3, 11, (samples, 1), generator=generator)).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": label}


def two_losses(outputs: Any, batch: Any) -> Tensor:
    return F.cross_entropy(outputs["logits"], batch["label"]) + (outputs["place"] - batch["middle"]).square().mean()


def pixel_loss(outputs: Any, batch: Any) -> Tensor:
    return F.cross_entropy(outputs["output"], batch[1])


def fitted(net: nn.Module, steps: int, loss: Any) -> nn.Module:
    torch.manual_seed(0)
    for module in net.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(steps):
        value = loss(net)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    return net.eval()


@cache
def two_heads() -> nn.Module:
    return fitted(TwoHeads(), 60, lambda net: two_losses(net(DATA["image"]), DATA))


@cache
def segmenter() -> nn.Module:
    return fitted(Segmenter(), 40, lambda net: F.cross_entropy(net(DATA["image"]), DATA["mask_of_square"]))


@cache
def embedding() -> nn.Module:
    text = sentences()

    def loss(net: nn.Module) -> Tensor:
        vectors = F.normalize(net(text["input_ids"], text["attention_mask"]), dim=1)
        same = (text["labels"][:, None] == text["labels"][None]).float()
        return ((vectors @ vectors.T) - same).square().mean()

    return fitted(Embedding(), 60, loss)


def place_error(outputs: Any, batch: Any) -> float:
    return float(np.abs(outputs["place"] - batch["middle"].numpy()).mean())


def neighbours(outputs: Any, batches: Any) -> float:
    """Share of samples whose nearest neighbour has their label."""
    vectors = np.concatenate([each["output"] for each in outputs])
    labels = np.concatenate([batch["labels"].numpy() for batch in batches])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = vectors @ vectors.T - 9 * np.eye(len(vectors))
    return float((labels[near.argmax(1)] == labels).mean())


def two_headed_task(**options: Any) -> Task:
    return autocompress.Task(
        train=DATA, metric=["accuracy", autocompress.metric(place_error, higher_is_better=False)], loss=two_losses,
        name="squares", **options)


def segmenting_task() -> Task:
    return autocompress.Task(train=(DATA["image"], DATA["mask_of_square"]), metric="miou", loss=pixel_loss)


def embedding_task() -> Task:
    return autocompress.Task(train=sentences(), metric=autocompress.metric(neighbours, unit="%"), name="sentences")


class TestTwoHeads(TaskContract):
    def task(self) -> Task:
        return two_headed_task()

    def network(self) -> nn.Module:
        return two_heads()


class TestSegmenter(TaskContract):
    def task(self) -> Task:
        return segmenting_task()

    def network(self) -> nn.Module:
        return segmenter()


class TestEmbedding(TaskContract):
    def task(self) -> Task:
        return embedding_task()

    def network(self) -> nn.Module:
        return embedding()


class TestLabelFree(TaskContract):
    def task(self) -> Task:
        return autocompress.Task(train=DATA)

    def network(self) -> nn.Module:
        return two_heads()


class TestLabelFreeClasses(TaskContract):
    def task(self) -> Task:
        return autocompress.Task(train=DATA["image"], outputs={"output": "classes"})

    def network(self) -> nn.Module:
        return segmenter()


@pytest.mark.usefixtures("short_searches")
@pytest.mark.parametrize(("make", "net", "budget"), [
    (two_headed_task, two_heads, "9kB"), pytest.param(segmenting_task, segmenter, "6kB", marks=pytest.mark.slow),
    pytest.param(embedding_task, embedding, "7kB", marks=pytest.mark.slow)])
def test_whole_searches(make: Any, net: Any, budget: str, tmp_path: Path) -> None:
    """The file keeps the budget, and its metrics on the test split are those of the task for its own outputs."""
    task = make()
    result = autocompress.search(net(), task=task, budget=budget, trials=3, epochs=1, out=tmp_path / "study")
    facts, metric = result.artifact, task.metric
    assert facts is not None and facts["verified"] and facts["size_bytes"] <= autocompress.Budget(
        size_bytes=int(budget[:-2]) * 1000).size_bytes
    for each in (metric, *task.further):
        assert np.isfinite(facts[each.name]) and np.isfinite(facts[f"baseline_{each.name}"])
    assert result.front[metric.name].notna().all()
    assert facts[f"baseline_{metric.name}"] > 0.9, "the original was trained"


def test_whole_batches_stand_for_a_split() -> None:
    """The metric of a part is that of its batches."""
    data = squares(400)
    batches = [({"image": data["image"][i:i + size]}, data["label"][i:i + size])
               for i, size in ((0, 7), *((7 + 12 * k, 12) for k in range(30)))]
    task = autocompress.Task(batches, batches, batches, metric="accuracy", inputs=lambda batch: batch[0]["image"])
    part = task.part("validation", 150)
    assert part is not None and 150 <= len(part) < 162
    assert set(task.part("validation", 140).tolist()) <= set(part.tolist())
    assert task.part("validation", 100_000) is None and task.part("validation", 12) is None
    labels = data["label"][:367]
    outputs = F.one_hot(torch.where(torch.arange(367) % 3 == 0, (labels + 1) % 4, labels), 4).float().numpy()
    likelihood = task.likelihood(torch.from_numpy(outputs), ())
    answers = [(rows, {"output": outputs[rows.numpy()]}) for rows in part.split(50)]
    assert task.score(answers, "validation", likelihood).metrics["accuracy"] == pytest.approx(
        float((part % 3 != 0).double().mean()))


def test_what_is_kept_is_neither_compressed_nor_trained() -> None:
    task = two_headed_task(keep=["place", "body.?"])
    traced = autocompress.trace(two_heads(), task=task, epochs=1)
    reasons = {layer.name: layer.not_compressible_reason for layer in traced.layers.layers}
    assert reasons == {"body.0": "kept whole, as body.? says", "body.2": "kept whole, as body.? says", "classes": "",
                       "place": "kept whole, as place says"}
    plan = autocompress.Plan.of([autocompress.Step("classes", "quantize", {"weight_bits": 4, "activation_bits": 32})])
    traced.evaluate(plan, rung=1)
    trained = dict(traced._bench.trainer.rebuild(plan, 1).model.named_parameters())
    for name, before in two_heads().named_parameters():
        assert torch.equal(trained[name], before) == (not name.startswith("classes"))
    with pytest.raises(InputError, match="place cannot be quantised: kept whole, as place says"):
        traced.evaluate(autocompress.Plan.of([autocompress.Step("place", "quantize", {"weight_bits": 4})]))


def test_loaders_and_labels_are_not_kept_alive_by_a_task() -> None:
    """A task of a loader that cannot be pickled travels, because what it read is its own."""
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(DATA["image"], DATA["label"]), batch_size=50,
                                         collate_fn=lambda samples: torch.utils.data.default_collate(samples))
    task = autocompress.Task(train=loader, metric="accuracy")
    again = pickle.loads(pickle.dumps(task))
    assert again.fingerprint == task.fingerprint and again.samples("train") == 192


class Noisy(torch.utils.data.Dataset[Any]):
    """Pictures that are drawn anew each time, and labels that are too where `labels` says so."""

    def __init__(self, labels: bool = False) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        image = DATA["image"][index] + 0.1 * torch.randn(1, 12, 12)
        return image, int(DATA["label"][index]) + (torch.randint(0, 3, ()).item() if self.labels else 0)


def first_loss(outputs: Any, batch: Any) -> Tensor:
    return F.cross_entropy(outputs["output"], batch[1])


@pytest.mark.parametrize(("data", "loss", "augmented"), [
    (Noisy(), None, True), (Noisy(), first_loss, True), (Noisy(labels=True), None, True),
    (Noisy(labels=True), first_loss, True), ((DATA["image"], DATA["label"]), None, False),
    (iter([(DATA["image"], DATA["label"])]), None, False)])
def test_random_augmentations_are_two_views(data: Any, loss: Any, augmented: bool) -> None:
    """Of the same samples, the same ones whenever a task is made; a loss is given targets of what the network read."""
    task = autocompress.Task(train=data, loss=loss)
    assert task.is_augmented is augmented
    rows = torch.arange(20)
    views = [task.train_view(view, 0)[rows] for view in range(4)]
    assert torch.equal(views[1], task.inputs("train", rows)) and torch.equal(views[0], views[1])
    assert torch.equal(views[1], views[2]) is not augmented and torch.equal(views[1], views[3])
    assert (views[1] - views[2]).abs().mean() < 0.3, "of the same samples"
    if isinstance(data, Noisy):
        again = autocompress.Task(train=data, loss=loss)
        assert again.views_fingerprint == task.views_fingerprint
        assert torch.equal(again.train_view(2, 0)[rows], views[2])
    if loss is not None:
        labels = [task.view_targets(view, 0)[rows].content[1] for view in (1, 2)]
        assert torch.equal(*labels) is not data.labels and torch.equal(labels[0], task.train_targets[rows].content[1])


def test_an_error_against_the_original_is_not_called_far_from_its_own_zero() -> None:
    data = {"x": torch.randn(60, 4), "target": torch.arange(60) % 3}
    task = autocompress.Task(train=data, metric=["accuracy", autocompress.metric("rmse", targets="original")])
    original = Score({"accuracy": 0.9, "accuracy_error": 0.01, "rmse": 1e-7, "rmse_error": 1e-8}, [])
    near = Score({"accuracy": 0.9, "accuracy_error": 0.01, "rmse": 0.01, "rmse_error": 0.001}, [])
    worse = Score({"accuracy": 0.5, "accuracy_error": 0.01, "rmse": 0.01, "rmse_error": 0.001}, [])
    assert task.losses(original, near)[0] == []
    (warning,) = task.losses(original, worse)[0]
    assert "accuracy" in warning.message
