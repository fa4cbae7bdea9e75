"""Tables: an MLP on scikit-learn's measurements of breast tumours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from subject import Arrays, Subject, right, stored
from torch import Tensor, nn
from training import trained

HERE = Path(__file__).resolve()
SPLITS = {"train": (0, 300), "val": (300, 420), "test": (420, 569)}


def _rows(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Measurements `(N, 30)` as they are, and whether a tumour is benign."""
    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.data))[slice(*SPLITS[split])]
    return data.data[order].astype(np.float32), data.target[order].astype(np.int64)


def _scale() -> tuple[np.ndarray, np.ndarray]:
    values = _rows("train")[0]
    return values.mean(0), values.std(0)


def _normalised(split: str) -> Arrays:
    mean, std = _scale()
    return {"measurements": ((_rows(split)[0] - mean) / std).astype(np.float32)}


def tumours_mlp() -> nn.Module:
    """Three layers: `(N, 30)` → scores of two classes."""
    rows = {"x": torch.from_numpy(_normalised("train")["measurements"]), "label": torch.from_numpy(_rows("train")[1])}
    return trained("tumours_mlp", lambda: nn.Sequential(nn.Linear(30, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(),
                                                        nn.Linear(128, 2)), rows, tumour_loss, epochs=30, rate=1e-3)


def tumour_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(network(batch["x"]), batch["label"])


def _write(path: Path) -> None:
    names = [name.replace(" ", "_") for name in load_breast_cancer().feature_names]
    lines = [",".join([*names, "benign", "split"])]
    for split in SPLITS:
        for row, label in zip(*_rows(split), strict=True):
            lines.append(",".join([*map(str, row), ("no", "yes")[label], split]))
    path.write_text("\n".join(lines) + "\n")


def _arguments() -> list[str]:
    mean, std = (",".join(f"{number:.7g}" for number in numbers) for numbers in _scale())
    return ["--model", f"{HERE}:tumours_mlp", "--mean", mean, "--std", std, "--task", "classification", "--data",
            f"csv:{stored('tumours.csv', _write)}?target=benign&split=split"]


def _inputs(split: str) -> Arrays:
    return {"input": _normalised(split)["measurements"]}


TUMOURS = Subject(
    "tabular MLP", "tabular MLP", "trained here on scikit-learn's breast cancer table: 300 records, 149 of test",
    tumours_mlp, _arguments, _inputs, lambda outputs: right(outputs["output"], _rows("test")[1]), "accuracy",
    reported="accuracy")
