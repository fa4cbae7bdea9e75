"""Data for the pretrained networks, as factories for `autocompress search --data data.py:NAME`.

Where a network's own data cannot be had, its labels are the original's answers, so accuracy is agreement with it; a
row of the benchmark says which. The test split is seen by no search. Everything is drawn with seed 0.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SPLITS = {"train": 600, "val": 250, "test": 400}


def _answers(network: nn.Module, inputs: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat([network(batch).argmax(1) for batch in inputs.split(16)]).numpy()


def _divided(inputs: np.ndarray, labels: np.ndarray, classes: int, counts: dict[str, int], **more: Any,
             ) -> dict[str, Any]:
    ends = np.cumsum([0, *counts.values()])
    order = np.random.default_rng(0).permutation(len(inputs))
    rows = {name: order[ends[i]:ends[i + 1]] for i, name in enumerate(counts)}
    return {**{name: (inputs[part], labels[part]) for name, part in rows.items()}, "classes": classes, **more}


def _cached(name: str, labels: Callable[[], np.ndarray]) -> np.ndarray:
    """Answers are computed once for all searches: they are not what a search is timed for."""
    path = Path(os.environ["STRANGERS_PACKAGES"]) / f"answers_{name}.npy"
    if not path.exists():
        np.save(path, labels())
    answers: np.ndarray = np.load(path)
    return answers


def _pictures(make: Callable[[], nn.Module], size: int = 224) -> dict[str, Any]:
    """Photographs of ten kinds of objects and animals, 32 px enlarged, uint8, with the network's answers."""
    archive = zipfile.ZipFile(Path(os.environ["STRANGERS_SHARED"]) / "data/cifar_jpeg_train.zip")
    names = sorted(name for name in archive.namelist() if name.endswith((".jpg", ".jpeg")))
    numbers = np.random.default_rng(0).choice(len(names), sum(SPLITS.values()), replace=False)
    images = [Image.open(io.BytesIO(archive.read(names[i]))).convert("RGB") for i in numbers]
    pixels = np.stack([np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
                       for image in images])
    mean, std = (torch.tensor(IMAGENET[name]).view(3, 1, 1) for name in ("mean", "std"))

    def answers() -> np.ndarray:
        network = make()
        return np.concatenate([_answers(network, (torch.from_numpy(part).float() / 255 - mean) / std)
                               for part in np.array_split(pixels, 20)])

    return _divided(pixels, _cached(make.__name__, answers), 1000, SPLITS, **IMAGENET)


def mobilenet_v2() -> dict[str, Any]:
    """Pictures of 224 px with MobileNetV2's answers."""
    return _pictures(networks.mobilenet_v2)


def efficientnet_lite0() -> dict[str, Any]:
    """Pictures of 224 px with EfficientNet-lite0's answers."""
    return _pictures(networks.efficientnet_lite0)


def efficientnet_lite1() -> dict[str, Any]:
    """Pictures of 224 px with EfficientNet-lite1's answers."""
    return _pictures(networks.efficientnet_lite1)


def efficientnet_lite2() -> dict[str, Any]:
    """Pictures of 224 px with EfficientNet-lite2's answers."""
    return _pictures(networks.efficientnet_lite2)


def _speech(make: Callable[[], nn.Module]) -> dict[str, Any]:
    """Frames of 1,024 samples at 16 kHz from recordings of spoken digits at 8 kHz, each of mean 0 and deviation 1."""
    stored = np.load(Path(os.environ["STRANGERS_SHARED"]) / "data/spoken_digits.npz")
    samples = torch.from_numpy(stored["samples"].astype(np.float32) / 32768)
    twice = F.interpolate(samples[None, None], scale_factor=2.0, mode="linear")[0, 0]
    generator = np.random.default_rng(0)
    starts = generator.choice(len(twice) - 1024, 20000, replace=False)
    frames = torch.stack([twice[start:start + 1024] for start in starts])
    loud = frames.std(1)
    frames = frames[loud > loud.median()][:2500]  # the quiet half is the background
    frames = (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)
    labels = _cached(make.__name__, lambda: _answers(make(), frames))
    return _divided(frames.numpy(), labels, 360, {"train": 1500, "val": 400, "test": 600})


def crepe_tiny() -> dict[str, Any]:
    """Speech with the small pitch tracker's answers."""
    return _speech(networks.crepe_tiny)


def crepe_full() -> dict[str, Any]:
    """Speech with the large pitch tracker's answers."""
    return _speech(networks.crepe_full)


def handwriting() -> dict[str, Any]:
    """scikit-learn's digits, enlarged to 20 of 28 px as MNIST centres them, with their true labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    large = F.interpolate(torch.from_numpy(digits.images).float()[:, None] / 16, size=20, mode="bicubic").clamp(0, 1)
    inputs = (F.pad(large, (4, 4, 4, 4)) - 0.1307) / 0.3081
    return _divided(inputs.numpy(), digits.target.astype(np.int64), 10, {"train": 900, "val": 300, "test": 597})


def keyword_spotter() -> dict[str, Any]:
    """MLPerf Tiny's 1,000 samples: one half with the network's answers for the search, the other with true labels."""
    stored = np.load(Path(os.environ["STRANGERS_SHARED"]) / "data/kws.npz")
    features = ((stored["features"].astype(np.float32) - 83) * 0.5847029)[:, None].reshape(-1, 1, 49, 10)
    order = np.random.default_rng(0).permutation(len(features))
    train, val, test = order[:350], order[350:500], order[500:]
    answers = _answers(networks.keyword_spotter(), torch.from_numpy(features))
    return {"train": (features[train], answers[train]), "val": (features[val], answers[val]),
            "test": (features[test], stored["labels"][test].astype(np.int64)), "classes": 12}
