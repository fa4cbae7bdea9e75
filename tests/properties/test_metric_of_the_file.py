"""For random small networks of every kind, a float file is scored as the torch network of the same plan is, and the
user's metric is given the file's outputs alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autocompress
from autocompress.backend.network.fold import fold_norms
from autocompress.formats.running import in_batches
from autocompress.study import file_answers
from autocompress.tensors.named import by_name

SAMPLES = 48


class Classifier(nn.Module):
    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        a, b = widths
        self.body = nn.Sequential(nn.Conv2d(3, a, 3, padding=1), nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, b, 3, 2),
                                  nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(b, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Detector(nn.Module):
    """A map of scores and one of boxes, in a tuple."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        a, b = widths
        self.body = nn.Sequential(nn.Conv2d(3, a, 3, 2, 1), nn.ReLU(), nn.Conv2d(a, b, 3, 2, 1), nn.ReLU())
        self.scores, self.boxes = nn.Conv2d(b, 2, 1), nn.Conv2d(b, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return self.scores(features), self.boxes(features)


class Segmenter(nn.Module):
    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        a, b = widths
        self.first, self.down, self.up = nn.Conv2d(3, a, 3, 1, 1), nn.Conv2d(a, b, 3, 2, 1), nn.Conv2d(b, a, 3, 1, 1)
        self.last = nn.Conv2d(2 * a, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x).relu()
        up = F.interpolate(self.up(self.down(first).relu()).relu(), scale_factor=2.0)
        return self.last(torch.cat([first, up], 1))


class Embedding(nn.Module):
    """Two inputs, a mask among them, and a dict with a field that is left out."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        a, b = widths
        self.embed, self.body, self.head = nn.Embedding(20, a), nn.Linear(a, b), nn.Linear(b, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor | None]:
        hidden = self.body(self.embed(input_ids)).relu() * attention_mask[:, :, None]
        return {"vector": self.head(hidden.sum(1) / attention_mask.sum(1, keepdim=True)), "attentions": None}


class Series(nn.Module):
    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        a, b = widths
        self.lstm = nn.LSTM(3, a, batch_first=True)
        self.head = nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def pictures() -> Tensor:
    return torch.randn(SAMPLES, 3, 12, 12)


def tokens() -> dict[str, Tensor]:
    mask = (torch.arange(7) < torch.randint(2, 8, (SAMPLES, 1))).long()
    return {"input_ids": torch.randint(0, 20, (SAMPLES, 7)), "attention_mask": mask, "target": torch.randn(SAMPLES, 6)}


KINDS: dict[str, tuple[Callable[[list[int]], nn.Module], Callable[[], Any]]] = {
    "classifier": (Classifier, lambda: (pictures(), torch.randint(0, 5, (SAMPLES,)))),
    "detector": (Detector, lambda: (pictures(), torch.randn(SAMPLES, 3, 3))),
    "segmenter": (Segmenter, lambda: (pictures(), torch.randint(0, 3, (SAMPLES, 12, 12)))),
    "embedding": (Embedding, tokens),
    "series": (Series, lambda: (torch.randn(SAMPLES, 9, 3), torch.randn(SAMPLES, 1))),
}


def smooth(outputs: Mapping[str, Any], batch: Any) -> float:
    """A number that every output and target has a part in."""
    target = batch["target"] if isinstance(batch, dict) else batch[1]
    total = float(np.abs(np.asarray(target, np.float64)).mean())
    return total + sum(float(np.tanh(np.asarray(values, np.float64)).mean()) for values in outputs.values())


def random_plan(traced: Any, rng: random.Random) -> autocompress.Plan:
    """Some groups pruned, to multiples of 16 channels, which every processor likes; all in float."""
    return autocompress.Plan.of([
        autocompress.Step(group.name, "prune", {"keep": rng.randrange(16, group.channels, 16)})
        for group in traced.layers.groups if group.channels > 16 and rng.random() < 0.8])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_scored_as_its_network(kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(f"{kind} {seed}")
    torch.manual_seed(seed)
    make, data = KINDS[kind]
    net = make([rng.choice((32, 48)), rng.choice((32, 48))]).eval()
    seen: list[dict[str, np.ndarray]] = []
    put_out: list[dict[str, np.ndarray]] = []

    def metric(outputs: Mapping[str, np.ndarray], batch: Any) -> float:
        seen.append(dict(outputs))
        return smooth(outputs, batch)

    def watched(runtime: Any, inputs: Any, rows: int) -> dict[str, np.ndarray]:
        put_out.append(in_batches(runtime, inputs, rows))
        return put_out[-1]

    task = autocompress.Task(train=data(), validation=data(), test=data(), metric=metric)
    traced = autocompress.trace(net, task=task)
    plan = random_plan(traced, rng)
    monkeypatch.setattr(file_answers, "in_batches", watched)
    value = traced.evaluate(plan).metrics["metric"]
    for name in put_out[0]:
        assert all(isinstance(each[name], np.ndarray) for each in seen)
        from_file = np.concatenate([each[name] for each in put_out])
        # Beside the only batch it is given nine tenths of it at a time, for the standard error.
        whole = [each[name] for each in seen if len(each[name]) == len(put_out[0][name])]
        assert np.array_equal(from_file, np.concatenate(whole)), "the metric saw what the file put out"
        rows = {row.tobytes() for row in from_file}
        assert all(row.tobytes() in rows for each in seen for row in each[name]), "and nothing else"
    model = fold_norms(traced.compress(plan), traced.layers).model
    values = []
    with torch.no_grad():
        for rows, batch in zip(task.rows("validation", 10**6), task._splits["validation"], strict=True):
            outputs = by_name(model(task.inputs("validation", rows)))
            values.append((smooth(outputs, batch), rows.stop - rows.start))
    assert value == pytest.approx(np.average([v for v, _ in values], weights=[n for _, n in values]), abs=1e-3)
