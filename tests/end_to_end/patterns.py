"""A network that is trained in a second, and its data: three classes of noisy patterns."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

Arrays = tuple[np.ndarray, np.ndarray]


def patterns(noise: float) -> Arrays:
    """300 pictures of 8×8 and their classes."""
    random = np.random.default_rng(0)
    clean = random.normal(size=(3, 1, 8, 8))
    labels = random.integers(0, 3, 300)
    return (clean[labels] + noise * random.normal(size=(300, 1, 8, 8))).astype(np.float32), labels


def network() -> nn.Sequential:
    """Three convolutions and a classifier, untrained."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))


def trained_on(arrays: Arrays, steps: int) -> nn.Module:
    """`network` after so many steps with all of the data."""
    torch.manual_seed(0)
    net = network()
    x, y = (torch.from_numpy(a) for a in arrays)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()
