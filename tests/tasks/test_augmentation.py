"""Random changes of training inputs, of any kind of task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autocompress
from autocompress.backend.statistics.outputs import outputs_of
from autocompress.backend.training.distill import distill
from autocompress.backend.training.recipe import Recipe
from autocompress.backend.training.teacher import Teacher
from autocompress.core.plan import Plan
from autocompress.errors import InputError
from autocompress.study.loading import load_task
from autocompress.study.settings import SearchSettings
from autocompress.tasks.augmentation import Augmentation, augmentation_of
from autocompress.tasks.data import load_data
from autocompress.tasks.models import load_network
from autocompress.tasks.views import SoundChanges

GENERATOR = torch.Generator().manual_seed(0)
PICTURES = torch.rand(60, 2, 8, 8, generator=GENERATOR) + 0.1
SOUNDS = torch.rand(60, 40, generator=GENERATOR) + 0.1
ROWS = torch.arange(40)


class Maps(nn.Module):
    """Scores of three classes for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(2, 6, 3, 1, 1), nn.Conv2d(6, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.first(image).relu())


class Spotter(nn.Module):
    """Scores of two classes of a sound."""

    def __init__(self, samples: int = 40) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(samples, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, sound: Tensor) -> Tensor:
        return self.body(sound.flatten(1))


def ready(net: nn.Module, **options: Any) -> Any:
    """A task that knows its network."""
    task = autocompress.Task(**options)
    load_network(net.eval(), task)
    return task


def test_changes_are_named_by_text_or_in_a_mapping() -> None:
    assert augmentation_of("flip, pad=4") == augmentation_of({"flip": True, "pad": 4}) == Augmentation(pad=4, flip=True)
    assert augmentation_of("shift=1600,gain=0.5") == Augmentation(shift=1600, gain=0.5)
    assert not augmentation_of("none") and not augmentation_of(None) and augmentation_of("flip")


@pytest.mark.parametrize(("value", "message"), [
    ("turn=3", "must name pad, flip, shift or gain"), ("pad", "pad must be a whole number of pixels"),
    ("pad=1.5", "pad must be a whole number"), ("pad=-1", "pad must be a whole number"),
    ("shift=10%", "shift must be a whole number of samples, but got '10%'"), ("gain=90", "decibels from 0 to 60"),
    ("flip=1", "flip must be named alone"), (3, "must be text such as flip,pad=4"),
    ({"flip": 1}, "flip must be named alone, or True or False")])
def test_changes_that_cannot_be_are_said(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        augmentation_of(value)


def test_a_sound_is_moved_with_silence_behind_it_and_made_louder() -> None:
    sounds = torch.arange(1.0, 6).expand(3, 1, 5)
    changes = SoundChanges(torch.tensor([2, 0, -1]), torch.tensor([1.0, 2, 1]))
    assert changes.applied(sounds)[:, 0].tolist() == [[0, 0, 1, 2, 3], [2, 4, 6, 8, 10], [2, 3, 4, 5, 0]]
    drawn = SoundChanges.drawn(1000, 7, 6.0, torch.Generator().manual_seed(0))
    assert set(drawn.later.tolist()) == set(range(-7, 8))
    assert 0.5 < float(drawn.factors.min()) < 0.55 and 1.9 < float(drawn.factors.max()) < 2


def test_pictures_of_any_task_are_mirrored_and_shifted() -> None:
    task, plain = (ready(Maps(), train={"image": PICTURES}, augment=augment) for augment in ("flip,pad=1", None))
    assert task.is_augmented and not plain.is_augmented
    whole = plain.train_view(1, 0)[ROWS]
    views = [task.train_view(view, 0)[ROWS] for view in range(3)]
    assert torch.equal(views[0], whole) and len({view.double().sum().item() for view in views}) == 3
    for before, after in zip(whole, views[1], strict=True):
        padded = nn.functional.pad(before, (1, 1, 1, 1))
        moved = [padded[:, i:i + 8, j:j + 8] for i in range(3) for j in range(3)]
        assert any(torch.equal(after, each) or torch.equal(after, each.flip(2)) for each in moved)
    assert torch.equal(task.train_view(1, 0)[ROWS.flip(0)[:7]], views[1].flip(0)[:7]), "whatever is read with them"
    assert not torch.equal(task.train_view(1, 1)[ROWS], views[1])
    assert torch.equal(task.inputs("validation", slice(0, 6)), plain.inputs("validation", slice(0, 6)))
    assert task.views_fingerprint != plain.views_fingerprint and task.fingerprint != plain.fingerprint


def counted(calls: list[int]) -> Any:
    def loss(outputs: Any, batch: Any) -> Tensor:
        calls.append(len(batch[1]))
        return outputs["output"].flatten(1).square().mean() + 0 * batch[1].sum()

    return loss


@pytest.mark.parametrize(("net", "targets", "augment", "changed", "mixed_in"), [
    (Maps(), torch.zeros(60, 4, 4, dtype=torch.int64), "flip", [2], [1]),
    (Maps(), torch.zeros(60, 8, 8, dtype=torch.int64), "flip", [1, 2], [1, 2]),
    (Maps(), torch.zeros(60, 2, 8, 8), "flip", [2], [1]),
    (Maps(), torch.zeros(60, 2, 8, 8), "pad=2", [1, 2], [1, 2]),
    (Maps(), torch.zeros(60, dtype=torch.int64), "flip", [1, 2], [1, 2]),
    (Spotter(), torch.zeros(60, dtype=torch.int64), "shift=4,gain=3", [1, 2], [1, 2]),
    (Spotter(), torch.zeros(60, 4), "shift=4", [2], [1])])
def test_a_loss_is_left_out_where_its_targets_may_not_fit(net: nn.Module, targets: Tensor, augment: str,
                                                         changed: list[int], mixed_in: list[int],
                                                         caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []
    caplog.set_level("INFO")
    inputs = PICTURES if isinstance(net, Maps) else SOUNDS
    task = autocompress.Task(train=(inputs, targets), loss=counted(calls), outputs={"output": "classes"},
                             augment=augment)
    bench = autocompress.trace(net.eval(), task=task)._bench
    first = task.train_view(0, 0)[ROWS]
    assert [view for view in (1, 2) if not torch.equal(task.train_view(view, 0)[ROWS], first)] == changed
    assert [view for view in (1, 2) if task.view_targets(view, 0) is not None] == mixed_in
    assert any("the loss is left out" in record.message for record in caplog.records) == (mixed_in == [1])
    calls.clear()
    network = bench.network
    teacher = Teacher(lambda x: network.likelihood.canonical(outputs_of(network.model, x)), task, 0, None)
    distill(network.compressor.compress(Plan()), teacher, task, Recipe(epochs=2, batch=24, label_weight=0.5),
            network.calibration, 0, likelihood=network.likelihood)
    assert sum(calls) == 48 * len(mixed_in), "the samples of these passes"


@pytest.mark.parametrize(("inputs", "augment", "message"), [
    (SOUNDS, "flip", r"pad and flip need inputs \(N, channels, height, width\) .* but inputs are float32 \(48, 40\)"),
    (SOUNDS, "shift=40", "sounds in floating point, of more than 40 samples"),
    (SOUNDS[:, None].expand(60, 3, 40), "gain=6", r"shift and gain need one input .* float32 \(48, 3, 40\)"),
    (torch.ones(60, 40, dtype=torch.int64), "shift=3", "in floating point")])
def test_inputs_that_are_no_pictures_or_sounds(inputs: Tensor, augment: str, message: str) -> None:
    net = nn.Sequential(nn.Flatten(), Spotter(120 if inputs.dim() == 3 else 40))
    with pytest.raises(InputError, match=message):
        ready(net, train=inputs, augment=augment)


def test_several_sounds_are_not_told_apart() -> None:
    class Two(Spotter):
        def forward(self, sound: Tensor, speaker: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(sound) + speaker[:, :2]

    with pytest.raises(InputError, match="need one input"):
        ready(Two(), train={"sound": SOUNDS, "speaker": SOUNDS[:, :4]}, augment="gain=3")


def test_recordings_of_a_folder_and_arrays_of_classification(tmp_path: Path) -> None:
    """A setting of the command line reaches every kind of data."""
    from scipy.io import wavfile

    for name in ("high", "low"):
        (tmp_path / name).mkdir()
        for number in range(12):
            wave = np.sin(np.arange(40) * (0.5 if name == "high" else 0.1) + number)
            wavfile.write(tmp_path / name / f"{number}.wav", 8000, wave.astype(np.float32))
    _, task = load_task(SearchSettings.of(model=Spotter(), data=f"audio:{tmp_path}", task="classification",
                                          augment="shift=5,gain=6"))
    _, plain = load_task(SearchSettings.of(model=Spotter(), data=f"audio:{tmp_path}", task="classification"))
    assert not torch.equal(task.train_view(1, 0)[:8], plain.train_view(1, 0)[:8])
    assert task.fingerprint != plain.fingerprint
    labels = torch.arange(60) % 2
    _, data = load_task(SearchSettings.of(model=nn.Sequential(nn.Flatten(), Spotter(128)), data=(PICTURES, labels),
                                          augment={"pad": 2}))
    assert (data.pad, data.flip) == (2, False) and data.is_augmented  # type: ignore[attr-defined]
    sounds = load_data((SOUNDS, labels), augment=Augmentation(shift=3))
    assert not torch.equal(sounds.train_view(1, 0), sounds.train.inputs) and sounds.views_fingerprint is not None
    with pytest.raises(InputError, match="need inputs"):
        load_data((SOUNDS, labels), augment=Augmentation(pad=3))


def test_augmentation_of_a_data_set_stays_with_another_metric() -> None:
    """A search for another metric than accuracy goes through the tasks that are named by their kind."""
    def is_augmented(**settings: str) -> bool:
        net = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
        return load_task(SearchSettings.of(model=net, data="digits", **settings))[1].is_augmented

    assert is_augmented() and is_augmented(metric="f1_macro")
    assert not is_augmented(metric="f1_macro", augment="none")


def test_a_task_of_ones_own_says_it_itself() -> None:
    with pytest.raises(InputError, match="augment is for tasks that are named by their kind"):
        SearchSettings.of(model=Maps(), task=autocompress.Task(train=PICTURES), augment="flip")
    with pytest.raises(InputError, match="data is for tasks that are named by their kind"):
        SearchSettings.of(model=Maps(), task="mine.py:task", data="digits")
    with pytest.raises(InputError, match="augment needs a model and its data"):
        SearchSettings.of(augment="flip")
