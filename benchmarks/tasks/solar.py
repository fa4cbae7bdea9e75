"""Solar cells of elpv-dataset: how likely each is defective, as a regression."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from subject import Arrays, Measured, Subject, packages, stored
from torch import Tensor, nn
from training import trained

HERE = Path(__file__).resolve()
SIDE = 64
SPLITS = {"train": (0, 1600), "val": (1600, 2000), "test": (2000, 2624)}


@cache
def cells(split: str, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Bytes `(N, side, side)`, and defect probabilities `(N,)`."""
    folder = packages("elpv_dataset/data")
    lines = [line.split() for line in (folder / "labels.csv").read_text().splitlines()]
    order = np.random.default_rng(0).permutation(len(lines))[slice(*SPLITS[split])]
    pictures = [np.asarray(Image.open(folder / lines[i][0]).convert("L").resize((side, side), Image.Resampling.BOX))
                for i in order]
    return np.stack(pictures), np.array([float(lines[i][1]) for i in order], np.float32)


class Inspector(nn.Module):
    """Four convolutions with norms and a head of two layers: `(N, 1, 64, 64)` → a number."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 24, 48, 96, 128)
        self.body = nn.Sequential(*(
            nn.Sequential(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in pairwise(widths)))
        self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, image: Tensor) -> Tensor:
        """The defect probability `(N, 1)`."""
        return self.head(self.body(image).amax((2, 3)))


def defect_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Squared error of cells that are mirrored at random."""
    image = batch["image"]
    for axis in (2, 3):
        image = image.flip(axis) if torch.rand(()) < 0.5 else image
    return F.mse_loss(network(image)[:, 0], batch["defect"])


def inspector() -> nn.Module:
    """`Inspector`, trained on 1,600 cells."""
    pictures, defects = cells("train")
    rows = {"image": torch.from_numpy(pictures).float()[:, None] / 255, "defect": torch.from_numpy(defects)}
    return trained("inspector", Inspector, rows, defect_loss, epochs=30, batch=32)


def _write(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **{f"{name}_{split}": array for split in SPLITS
                          for name, array in zip(("image", "targets"), cells(split), strict=True)})


def _inputs(split: str) -> Arrays:
    return {"image": cells(split)[0][:, None].astype(np.float32) / 255}


def _error(outputs: Mapping[str, np.ndarray]) -> Measured:
    errors = np.square(outputs["output"][:, 0] - cells("test")[1])
    return Measured(errors, lambda rows: float(np.sqrt(rows.mean())))


INSPECTOR = Subject(
    "solar cells", "regressor", "a small CNN trained here on 1,600 cells of elpv-dataset at 64 pixels: the probability "
    "of a defect; 624 of test", inspector,
    lambda: ["--model", f"{HERE}:inspector", "--task", "regression", "--data", f"npz:{stored('solar.npz', _write)}"],
    _inputs, _error, "RMSE", unit="", higher_is_better=False, reported="rmse")
