"""A small network and its data, in files as a user has them: what the benchmarks of scale search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

NETWORK = '''
from torch import nn

def block(before, after, stride):
    return [nn.Conv2d(before, after, 3, padding=1, stride=stride, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

def net():
    widths = [(1, WIDTH, 1), (WIDTH, WIDTH, 1), (WIDTH, 2 * WIDTH, 2), (2 * WIDTH, 2 * WIDTH, 1),
              (2 * WIDTH, 4 * WIDTH, 2), (4 * WIDTH, 4 * WIDTH, 1)]
    layers = [layer for shape in widths for layer in block(*shape)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * WIDTH, 4))
'''
CLASSES, TRAINED_STEPS = 4, 60


def write_files(folder: Path, *, width: int = 8, side: int = 12, samples: int = 400) -> tuple[str, str, Path]:
    """Train the network for a moment; returned are `model`, `data` and `weights` for a search.

    Pictures `(samples, 1, side, side)` of four classes, told apart by the rows that are bright.
    """
    folder.mkdir(parents=True, exist_ok=True)
    code = NETWORK.replace("WIDTH", str(width))
    (folder / "net.py").write_text(code)
    rng = np.random.default_rng(0)
    labels = np.arange(samples) % CLASSES
    pictures = rng.normal(0, 0.8, (samples, 1, side, side)).astype(np.float32)
    band = side // CLASSES
    for picture, label in zip(pictures, labels, strict=True):
        picture[0, band * label:band * (label + 1), :] += 1
    np.savez(folder / "data.npz", x=pictures, y=labels)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(code, names)
    model: nn.Module = names["net"]()  # type: ignore[operator]
    optimiser = torch.optim.Adam(model.parameters(), 0.005)
    x, y = torch.from_numpy(pictures), torch.from_numpy(labels)
    for step in range(TRAINED_STEPS):
        rows = torch.arange(step * 64, (step + 1) * 64) % samples
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_file(model.state_dict(), folder / "net.safetensors")
    return f"{folder}/net.py:net", f"npz:{folder}/data.npz", folder / "net.safetensors"
