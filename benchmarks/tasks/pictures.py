"""Photographs: a classifier, and super-resolution."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from solar import cells
from subject import Arrays, Measured, Subject, right, shared, stored
from torch import Tensor, nn
from training import trained

import autocompress

HERE = Path(__file__).resolve()
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.25, 0.27)
COUNTS = {"train": 8000, "val": 1000, "test": 2000}


def _members(split: str) -> list[tuple[str, int]]:
    """Names in the archive and class numbers of a split."""
    archive = zipfile.ZipFile(shared("data/cifar_jpeg_train.zip"))
    names = sorted(name for name in archive.namelist() if name.endswith((".jpg", ".jpeg", ".png")))
    classes = sorted({Path(name).parent.name for name in names})
    starts = dict(zip(COUNTS, np.cumsum([0, *COUNTS.values()]), strict=False))
    numbers = np.random.default_rng(0).permutation(len(names))[starts[split]:starts[split] + COUNTS[split]]
    return [(names[i], classes.index(Path(names[i]).parent.name)) for i in numbers]


@cache
def photographs(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Bytes `(N, 3, 32, 32)` and class numbers."""
    archive = zipfile.ZipFile(shared("data/cifar_jpeg_train.zip"))
    rows = [(np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")).transpose(2, 0, 1), label)
            for name, label in _members(split)]
    return np.stack([pixels for pixels, _ in rows]), np.array([label for _, label in rows])


def normalised(pixels: np.ndarray) -> np.ndarray:
    """Bytes as the classifier reads them."""
    mean, std = (np.array(numbers, np.float32)[:, None, None] for numbers in (MEAN, STD))
    return (pixels.astype(np.float32) / 255 - mean) / std


class Block(nn.Module):
    """Two convolutions with norms beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.Conv2d(after, after, 3, 1, 1,
                                                                                            bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(after), nn.BatchNorm2d(after)])
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(N, after, H / stride, W / stride)`."""
        y = self.norms[1](self.second(F.relu(self.norms[0](self.first(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet8(nn.Module):
    """The picture classifier of MLPerf Tiny: three blocks."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2))
        self.head = nn.Linear(4 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Scores `(N, classes)`."""
        return self.head(self.blocks(self.stem(image)).mean((2, 3)))


def picture_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of pictures that are mirrored and shifted at random."""
    image = batch["image"].flip(3) if torch.rand(()) < 0.5 else batch["image"]
    image = torch.roll(image, (int(torch.randint(-3, 4, ())), int(torch.randint(-3, 4, ()))), (2, 3))
    return F.cross_entropy(network(image), batch["label"])


def classifier() -> nn.Module:
    """ResNet-8 on photographs."""
    pixels, labels = photographs("train")
    rows = {"image": torch.from_numpy(normalised(pixels)), "label": torch.from_numpy(labels)}
    return trained("classifier", ResNet8, rows, picture_loss, epochs=3, rate=5e-3, batch=128)


def _write(folder: Path) -> None:
    archive = zipfile.ZipFile(shared("data/cifar_jpeg_train.zip"))
    for split in COUNTS:
        for number, (name, _) in enumerate(_members(split)):
            path = folder / split / Path(name).parent.name / f"{number:05}{Path(name).suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))


def folder() -> Path:
    """The photographs in folders by split and class."""
    return stored("photographs", _write)


def _classifier_arguments() -> list[str]:
    return ["--model", f"{HERE}:classifier", "--data", f"imagefolder:{folder()}", "--image-size", "32",
            "--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]


def _classifier_inputs(split: str) -> Arrays:
    pixels, _ = photographs(split)
    return {"image": normalised(pixels if split == "test" else pixels[:200])}


CLASSIFIER = Subject(
    "classifier", "classifier", "ResNet-8 of MLPerf Tiny, trained here on 8,000 pictures of CIFAR-10 saved as "
    " JPEG (not comparable to published figures); 2,000 of test", classifier, _classifier_arguments,
    _classifier_inputs, lambda outputs: right(outputs["output"], photographs("test")[1]), "accuracy",
    reported="accuracy")


class Upscaler(nn.Module):
    """Super-resolution by sub-pixel convolution, after Shi et al., "ESPCN" (CVPR 2016): `(N, 1, H, W)` → twice the
    size, as what bicubic enlargement lacks."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, width, 5, 1, 2), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(),
                                  nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, 4, 3, 1, 1))
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, small: Tensor) -> Tensor:
        """Pictures `(N, 1, 2 H, 2 W)`, from 0 to 1."""
        return self.shuffle(self.body(small)) + F.interpolate(small, scale_factor=2.0, mode="bilinear",
                                                              align_corners=False)


def _pairs(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of solar cells at 48 and 96 pixels, from 0 to 1."""
    large = torch.from_numpy(cells(split, 96)[0]).float()[:, None] / 255
    small = F.avg_pool2d(large, 2)
    return small.numpy(), large.numpy()


def upscaling_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Squared error."""
    return 100 * F.mse_loss(network(batch["small"]), batch["large"])


def upscaler() -> nn.Module:
    """`Upscaler` on solar cells."""
    small, large = map(torch.from_numpy, _pairs("train"))
    rows = {"small": small[:800], "large": large[:800]}
    return trained("upscaler", Upscaler, rows, upscaling_loss, epochs=3, batch=16)


def psnr(outputs: Mapping[str, np.ndarray], batch: Mapping[str, Tensor]) -> float:
    """Peak signal-to-noise ratio, the mean over pictures."""
    return float(_decibels(outputs["output"], batch["large"].numpy()).mean())


def _decibels(output: np.ndarray, true: np.ndarray) -> np.ndarray:
    decibels: np.ndarray = -10 * np.log10(np.square(output - true).mean((1, 2, 3)))
    return decibels


def upscaling() -> autocompress.Task:
    """The task of super-resolution."""
    splits = {}
    for split in ("train", "val", "test"):
        small, large = map(torch.from_numpy, _pairs(split))
        splits[split] = {"small": small, "large": large}
    return autocompress.Task(splits["train"], splits["val"], splits["test"], name="cells",
                             metric=autocompress.metric(psnr, unit="dB"),
                             loss=lambda outputs, batch: F.mse_loss(outputs["output"], batch["large"]))


UPSCALER = Subject(
    "super-resolution", "image to image", "a sub-pixel network, twice the size, trained here on solar cells of "
    "elpv-dataset at 96 pixels", upscaler,
    lambda: ["--model", f"{HERE}:upscaler", "--task", f"{HERE}:upscaling"],
    lambda split: {"small": _pairs(split)[0]},
    lambda outputs: Measured(_decibels(outputs["output"], _pairs("test")[1])), "PSNR, dB", unit="dB", reported="psnr")
