"""Time series: a 1-D CNN, an LSTM and a temporal convolutional network on sets that come with aeon."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from subject import Arrays, Measured, Subject, packages, right, stored
from torch import Tensor, nn
from training import trained

HERE = Path(__file__).resolve()
PAST, AHEAD = 96, 8


def _ts(name: str, file: str) -> tuple[np.ndarray, np.ndarray]:
    """Series `(N, channels, length)` and class numbers of a .ts file whose series have one length."""
    lines = packages(f"aeon/datasets/data/{name}/{file}.ts").read_text().splitlines()
    rows = [line.split(":") for line in lines if line and line[0] not in "#@"]
    series = np.array([[channel.split(",") for channel in row[:-1]] for row in rows], np.float32)
    classes = sorted({row[-1].strip() for row in rows})
    return series, np.array([classes.index(row[-1].strip()) for row in rows])


def _leaves(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Outlines of leaves `(N, 1, 427)` of six kinds."""
    return _ts("OSULeaf", "OSULeaf_TEST" if split == "test" else "OSULeaf_TRAIN")


def _vowels(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Two vowels by nine speakers, `(N, 25, 12)` coefficients."""
    file = "JapaneseVowels_eq_TEST" if split == "test" else "JapaneseVowels_eq_TRAIN"
    series, labels = _ts("JapaneseVowels", file)
    return np.ascontiguousarray(series.transpose(0, 2, 1)), labels


class SeriesCNN(nn.Module):
    """The fully convolutional network of Wang et al., "Time series classification from scratch" (IJCNN 2017), half as
    wide: `(N, 1, length)` → scores."""

    def __init__(self, classes: int = 6) -> None:
        super().__init__()
        widths, kernels = (1, 64, 128, 64), (9, 5, 3)
        self.blocks = nn.Sequential(*(
            nn.Sequential(nn.Conv1d(before, after, kernel, padding=kernel // 2, bias=False), nn.BatchNorm1d(after),
                          nn.ReLU())
            for before, after, kernel in zip(widths, widths[1:], kernels, strict=False)))
        self.head = nn.Linear(64, classes)

    def forward(self, series: Tensor) -> Tensor:
        """Scores `(N, classes)`."""
        return self.head(self.blocks(series).mean(2))


class SeriesLSTM(nn.Module):
    """Two LSTM layers: `(N, length, 12)` → scores of the last step."""

    def __init__(self, classes: int = 9) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(12, 64, 2, batch_first=True), nn.Linear(64, classes)

    def forward(self, series: Tensor) -> Tensor:
        """Scores `(N, classes)`."""
        return self.head(self.lstm(series)[0][:, -1])


def class_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of series that are scaled and blurred by noise at random."""
    series = batch["series"]
    series = series * (0.9 + 0.2 * torch.rand(len(series), 1, 1)) + 0.03 * torch.randn_like(series)
    return F.cross_entropy(network(series), batch["label"])


def _rows(read: tuple[np.ndarray, np.ndarray]) -> dict[str, Tensor]:
    return {"series": torch.from_numpy(read[0]), "label": torch.from_numpy(read[1])}


def leaves_cnn() -> nn.Module:
    """The 1-D CNN on outlines of leaves."""
    return trained("leaves_cnn", SeriesCNN, _rows(_leaves("train")), class_loss, epochs=120, batch=32)


def vowels_lstm() -> nn.Module:
    """The LSTM on vowels."""
    return trained("vowels_lstm", SeriesLSTM, _rows(_vowels("train")), class_loss, epochs=40, batch=32)


def _write_leaves(path: Path) -> None:
    _write(path, _leaves)


def _write_vowels(path: Path) -> None:
    _write(path, _vowels)


def _write(path: Path, read: object) -> None:
    """Training samples, of which a quarter is for validation, and the official test samples."""
    (x, y), (test_x, test_y) = read("train"), read("test")  # type: ignore[operator]
    val = np.arange(len(x)) % 4 == 0
    with path.open("wb") as file:
        np.savez(file, x_train=x[~val], y_train=y[~val], x_val=x[val], y_val=y[val], x_test=test_x, y_test=test_y)


LEAVES = Subject(
    "series CNN", "time series, 1-D CNN", "trained here on OSULeaf of aeon: 200 outlines of six kinds of leaves, 242 "
    "official test outlines", leaves_cnn,
    lambda: ["--model", f"{HERE}:leaves_cnn", "--data", f"npz:{stored('leaves.npz', _write_leaves)}"],
    lambda split: {"series": _leaves(split)[0]}, lambda outputs: right(outputs["output"], _leaves("test")[1]),
    "accuracy", reported="accuracy")
VOWELS = Subject(
    "series LSTM", "time series, LSTM", "trained here on JapaneseVowels of aeon: 270 series of nine speakers, 370 "
    "official test series", vowels_lstm,
    lambda: ["--model", f"{HERE}:vowels_lstm", "--data", f"npz:{stored('vowels.npz', _write_vowels)}"],
    lambda split: {"series": _vowels(split)[0]}, lambda outputs: right(outputs["output"], _vowels("test")[1]),
    "accuracy", dynamic=True, reported="accuracy")


class TCN(nn.Module):
    """Dilated causal convolutions with shortcuts, after Bai et al. (arXiv:1803.01271): `(N, 1, 96)` → the next 8."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, width, 1)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=2 ** level) for level in range(5))
        self.mixes = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(5))
        self.head = nn.Linear(width, AHEAD)

    def forward(self, past: Tensor) -> Tensor:
        """The values that follow, `(N, 8)`."""
        x = self.stem(past)
        for level, (layer, mix) in enumerate(zip(self.layers, self.mixes, strict=True)):
            x = F.relu(x + mix(F.relu(layer(F.pad(x, (2 ** (level + 1), 0))))))
        return self.head(x[:, :, -1]) + past[:, :, -1]


def _pressure(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Windows of a blood pressure `(N, 1, 96)` in deviations, and the 8 values behind each: by time, three fifths for
    training, a fifth each for validation and test."""
    folder = packages("aeon/datasets/data/KDD-TSAD_135")
    values = np.concatenate([np.loadtxt(folder / f"135_UCR_Anomaly_InternalBleeding16_{part}.csv", delimiter=",",
                                        skiprows=1, usecols=1, dtype=np.float32) for part in ("TRAIN", "TEST")])
    values = (values - values[:5000].mean()) / values[:5000].std()
    start, end = {"train": (0, 0.6), "val": (0.6, 0.8), "test": (0.8, 1.0)}[split]
    piece = values[int(start * len(values)):int(end * len(values))]
    windows = np.lib.stride_tricks.sliding_window_view(piece, PAST + AHEAD)[::3].copy()
    return windows[:, None, :PAST], windows[:, PAST:]


def forecast_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Squared error."""
    return F.mse_loss(network(batch["past"]), batch["next"])


def pressure_tcn() -> nn.Module:
    """The TCN on a blood pressure."""
    past, ahead = map(torch.from_numpy, _pressure("train"))
    return trained("pressure_tcn", TCN, {"past": past, "next": ahead}, forecast_loss, epochs=16, batch=64)


def _write_pressure(path: Path) -> None:
    lines = [",".join([*(f"past{i}" for i in range(PAST)), *(f"next{i}" for i in range(AHEAD)), "split"])]
    for split in ("train", "val", "test"):
        for past, ahead in zip(*_pressure(split), strict=True):
            lines.append(",".join([*(f"{number:.7g}" for number in (*past[0], *ahead)), split]))
    path.write_text("\n".join(lines) + "\n")


def _pressure_source() -> str:
    targets = "%2C".join(f"next{i}" for i in range(AHEAD)).replace("%2C", ",")
    return f"csv:{stored('pressure.csv', _write_pressure)}?target={targets}&split=split&shape=1,{PAST}"


def _forecast(outputs: object) -> Measured:
    errors = np.square(outputs["output"] - _pressure("test")[1]).mean(1)  # type: ignore[index]
    return Measured(errors, lambda rows: float(np.sqrt(rows.mean())))


def _pressure_inputs(split: str) -> Arrays:
    return {"past": _pressure(split)[0]}


PRESSURE = Subject(
    "series TCN", "time series, TCN", "trained here on a blood pressure of aeon (InternalBleeding16): 8 values out of "
    "the 96 before them; by time, the last fifth is the test", pressure_tcn,
    lambda: ["--model", f"{HERE}:pressure_tcn", "--task", "regression", "--data", _pressure_source()],
    _pressure_inputs, _forecast, "RMSE, deviations", unit="", higher_is_better=False, reported="rmse")
