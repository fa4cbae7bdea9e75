"""The embedded task: a torchvision ResNet-18 that reads handwritten digits, trained here once.

What runs when the user brings neither model nor data, without any download. Measured: see `RECIPE`.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from autocompress.core.files import remove_leftovers, write_whole
from autocompress.errors import InputError
from autocompress.tasks.cache import cache_dir
from autocompress.tasks.data import load_data
from autocompress.tasks.models import model_fingerprint
from autocompress.tasks.splits import Split, TaskData
from autocompress.tasks.vision import import_torchvision
from autocompress.tasks.weights import load_weights_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum under a one-cycle learning rate, as the default model is trained."""

    epochs: int = 8
    batch: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    seed: int = 0
    max_steps: int | None = None


RECIPE = Recipe()


def default_task(cache: Path | None = None) -> tuple[nn.Module, TaskData]:
    """The trained network (11.2M parameters, 44.7 MB; input (N, 1, 16, 16)) in eval mode, and its data.

    Weights are kept in `cache`, or in `cache_dir()`, under a hash of data, recipe and torch's major
    version; a file that is damaged is made again. A cache that cannot be written is done without.
    """
    data = load_data("digits")
    model = _network(data.classes)
    folder = cache if cache is not None else cache_dir()
    path = folder / f"default-{_key(data)}.safetensors"
    if path.is_file():
        try:
            _restore(model, path, data.classes)
            return model.eval(), data
        except InputError as error:
            log.warning("the cached default model cannot be used and is trained again: %s", error)
            model = _network(data.classes)
    log.info("training the default model once, in about half a minute on two cores")
    start = time.perf_counter()
    train(model, data, RECIPE)
    log.info(
        "trained the default model in %.0f s: %.2f%% right on the validation, %.2f%% on the test split",
        time.perf_counter() - start,
        100 * right_share(model, data, data.validation),
        100 * right_share(model, data, data.test),
    )
    try:
        _store(model, path)
    except OSError as error:
        log.warning("the default model cannot be kept in %s (%s) and will be trained again next time", folder, error)
    return model.eval(), data


def train(model: nn.Module, data: TaskData, recipe: Recipe) -> None:
    """Train in place on the CPU; the outcome is settled by `recipe.seed` and the number of threads."""
    generator = torch.Generator().manual_seed(recipe.seed)
    optimiser = torch.optim.SGD(
        model.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    per_epoch = len(data.train) // recipe.batch
    steps = min(recipe.epochs * per_epoch, recipe.max_steps or recipe.epochs * per_epoch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=max(steps, 2))
    model.train()
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < recipe.batch:
            order = torch.randperm(len(data.train), generator=generator)
        batch, order = data.train.take(order[: recipe.batch]), order[recipe.batch :]
        logits = model(data.normalise(data.augmented(batch.inputs, generator)))
        loss = functional.cross_entropy(logits, batch.targets, label_smoothing=recipe.label_smoothing)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    model.eval()


def right_share(model: nn.Module, data: TaskData, split: Split, batch: int = 256) -> float:
    """Share of `split` that the model, in eval mode, labels rightly."""
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(split), batch):
            logits: Tensor = model(data.normalise(split.inputs[start : start + batch]))
            right += int((logits.argmax(1) == split.targets[start : start + batch]).sum())
    return right / len(split)


def _network(classes: int) -> nn.Module:
    """ResNet-18 for small grey pictures: first convolution 3×3 with stride 2, no pooling after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RECIPE.seed)
        net: nn.Module = import_torchvision().models.resnet18(num_classes=classes)
        net.conv1 = nn.Conv2d(1, 64, kernel_size=3, stride=2, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


def _key(data: TaskData) -> str:
    facts = {
        "data": data.fingerprint,
        "recipe": asdict(RECIPE),
        "torch": torch.__version__.partition(".")[0],
        "network": repr(_network(data.classes)),
    }
    return hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()[:16]


def _restore(model: nn.Module, path: Path, classes: int) -> None:
    """Load and verify: the file carries the fingerprint that the model must have with its weights."""
    load_weights_file(model, path, classes)
    with safetensors.safe_open(path, framework="pt") as stream:
        expected = (stream.metadata() or {}).get("fingerprint")
    if model_fingerprint(model) != expected:
        raise InputError(f"{path} must hold the weights it was written with, but its content has changed")


def _store(model: nn.Module, path: Path) -> None:
    """Keep the weights with the fingerprint that the model has with them."""
    write_whole(path, save(model.state_dict(), metadata={"fingerprint": model_fingerprint(model)}))
    remove_leftovers(path.parent)
