"""Sound: MLPerf Tiny's keyword spotter, and spoken digits by a network on the waveform."""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from subject import Arrays, Subject, packages, right, shared, stored
from torch import Tensor, nn
from training import trained

HERE = Path(__file__).resolve()
SAMPLES = 6000


def keyword_spotter() -> nn.Module:
    """DS-CNN with the weights of MLPerf Tiny's float file."""
    os.environ["STRANGERS_PACKAGES"], os.environ["STRANGERS_SHARED"] = str(packages()), str(shared(""))
    sys.path.append(str(HERE.parent.parent / "strangers"))
    import networks

    network: nn.Module = networks.keyword_spotter()
    return network


def _features(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Features `(N, 1, 49, 10)` and labels: one half for the search, the other for the figures."""
    data = np.load(shared("data/kws.npz"))
    features = ((data["features"].astype(np.float32) - 83) * np.float32(0.5847029)).reshape(-1, 1, 49, 10)
    order = np.random.default_rng(0).permutation(len(features))
    rows = {"train": order[:350], "val": order[350:500], "test": order[500:]}[split]
    return features[rows], data["labels"][rows].astype(np.int64)


def _keywords(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, features_train=_features("train")[0], features_val=_features("val")[0],
                 features_test=_features("test")[0])


KEYWORDS = Subject(
    "keyword spotter", "keyword spotter", "MLPerf Tiny's DS-CNN and its 1,000 samples: 500 for the search, without "
    "labels, 500 for the figures", keyword_spotter,
    lambda: ["--model", f"{HERE}:keyword_spotter", "--data", f"npz:{stored('keywords.npz', _keywords)}",
             "--task", "classification"],
    lambda split: {"features": _features(split)[0]}, lambda outputs: right(outputs["output"], _features("test")[1]),
    "accuracy")


class Waveforms(nn.Module):
    """Convolutions on the waveform, after Dai et al., "Very deep convolutional neural networks for raw waveforms"
    (ICASSP 2017): `(N, 6000)` at 8 kHz → scores of ten digits."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 48, 64, 96, 128)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv1d(before, after, 64 if before == 1 else 5, 12 if before == 1 else 1, 2, bias=False),
                          nn.BatchNorm1d(after), nn.ReLU(), nn.MaxPool1d(3))
            for before, after in pairwise(widths))
        self.head = nn.Linear(128, 10)

    def forward(self, wave: Tensor) -> Tensor:
        """Scores `(N, 10)`."""
        x = wave[:, None]
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(2))


def _waves(test: bool) -> tuple[Tensor, Tensor]:
    """Recordings `(N, 6000)` from -1 to 1, cut or filled at their end, and their digits."""
    data = dict(np.load(shared("data/spoken_digits.npz")))  # each look into the file reads it again
    starts = np.concatenate([[0], np.cumsum(data["lengths"])])
    rows = np.flatnonzero(data["test"].astype(bool) == test)
    waves = torch.zeros(len(rows), SAMPLES)
    for wave, row in zip(waves, rows, strict=True):
        samples = data["samples"][starts[row]:starts[row + 1]][:SAMPLES]
        wave[:len(samples)] = torch.from_numpy(samples.astype(np.float32) / 32768)
    return waves, torch.from_numpy(data["digits"][rows].astype(np.int64))


def digit_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of waveforms shifted and scaled at random."""
    wave = torch.roll(batch["wave"], int(torch.randint(-400, 400, ())), 1) * (0.6 + torch.rand(len(batch["wave"]), 1))
    return F.cross_entropy(network(wave), batch["digit"])


def spoken_digits() -> nn.Module:
    """`Waveforms`, trained on 2,700 recordings."""
    waves, digits = _waves(False)
    return trained("spoken_digits", Waveforms, {"wave": waves, "digit": digits}, digit_loss, epochs=6)


def _recordings(folder: Path) -> None:
    from scipy.io import wavfile

    data = dict(np.load(shared("data/spoken_digits.npz")))  # each look into the file reads it again
    starts = np.concatenate([[0], np.cumsum(data["lengths"])])
    for row, digit in enumerate(data["digits"]):
        place = folder / ("test" if data["test"][row] else "val" if row % 9 == 0 else "train") / str(digit)
        place.mkdir(parents=True, exist_ok=True)
        wavfile.write(place / f"{row:04}.wav", 8000, data["samples"][starts[row]:starts[row + 1]])


def _wave_inputs(split: str) -> Arrays:
    return {"wave": _waves(split == "test")[0].numpy()}


DIGITS = Subject(
    "spoken digits", "spoken digits", "1-D CNN on 8 kHz waveforms, trained here on 2,700 recordings of the Free Spoken "
    "Digit Dataset; 300 official test recordings", spoken_digits,
    lambda: ["--model", f"{HERE}:spoken_digits", "--task", "classification", "--data",
             f"audio:{stored('recordings', _recordings)}?seconds={SAMPLES / 8000}"],
    _wave_inputs, lambda outputs: right(outputs["output"], _waves(True)[1].numpy()), "accuracy", reported="accuracy")
