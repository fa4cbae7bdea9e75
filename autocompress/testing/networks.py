"""Small networks, one for each way in which layers hang together, and data to go with them.

Norm statistics are randomised: with fresh ones an untrained network puts out values near zero, and every
comparison of outputs is empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.tasks.splits import Split, TaskData

__all__ = ["CLASSES", "NETWORKS", "Network", "task_data"]

CLASSES = 5


@dataclass(frozen=True)
class Network:
    """A maker of one architecture, with equal weights each time.

    Args:
        name: for the identifiers of tests.
        input_shape: of one sample, `(C, …)`, float32 values, or tokens where there is a `vocabulary`.
        build: makes the network, untrained.
        vocabulary: how many tokens there are; 0 for values.
    """

    name: str
    input_shape: tuple[int, ...]
    build: Callable[[], nn.Module]
    vocabulary: int = 0

    def make(self, seed: int = 0) -> nn.Module:
        """A new copy in eval mode, its weights and norm statistics drawn by `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return randomised_norms(self.build().eval())

    def data(self) -> TaskData:
        """Random samples that it takes."""
        return task_data(self.input_shape, vocabulary=self.vocabulary)


def randomised_norms(model: nn.Module) -> nn.Module:
    """Every BatchNorm, in place, as after training: no statistic is 0 or 1, and some factors are negative."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, 0.0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.weight, 1.0, 0.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return model


def task_data(input_shape: tuple[int, ...], classes: int = CLASSES, samples: int = 64, seed: int = 0,
              vocabulary: int = 0) -> TaskData:
    """Random inputs, and labels, in three splits.

    Args:
        input_shape: of one sample.
        classes: number of labels.
        samples: of each split.
        seed: of the random numbers.
        vocabulary: number of tokens that inputs are; 0 for values.
    """
    generator = torch.Generator().manual_seed(seed)

    def split() -> Split:
        shape = samples, *input_shape
        inputs = torch.randint(vocabulary, shape, generator=generator) if vocabulary else \
            torch.randn(shape, generator=generator)
        return Split(inputs, torch.arange(samples) % classes)

    return TaskData("random", split(), split(), split(), classes)


def conv_norm(n_in: int, n_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU: the sizes of input and output agree but for the stride."""
    conv = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU())


class Residual(nn.Module):
    """Two blocks with sums; the second halves the resolution and has a 1×1 shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 16)
        self.conv1, self.bn1 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.down, self.bn3 = nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32)
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, 12, 12)` → `(N, 5)`."""
        x = self.stem(x)
        x = torch.relu(x + self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + self.bn3(self.down(x)))
        scores: Tensor = self.fc(x.mean((2, 3)))
        return scores


class Dense(nn.Module):
    """Two layers whose outputs are appended to what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grow1, self.grow2 = conv_norm(3, 16), conv_norm(16, 16), conv_norm(32, 16)
        self.fc = nn.Linear(48, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, 12, 12)` → `(N, 5)`."""
        x = self.stem(x)
        x = torch.cat([x, self.grow1(x)], 1)
        x = torch.cat([x, self.grow2(x)], 1)
        scores: Tensor = self.fc(x.mean((2, 3)))
        return scores


class Recurrent(nn.Module):
    """The last output of a recurrent layer, classified in two layers."""

    def __init__(self, cell: type[nn.LSTM | nn.GRU | nn.RNN], **options: Any) -> None:
        super().__init__()
        self.rnn = cell(6, 16, batch_first=True, **options)
        width = (options.get("proj_size") or 16) * (2 if options.get("bidirectional") else 1)
        self.hidden, self.fc = nn.Linear(width, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 8, 6)` → `(N, 5)`."""
        outputs, _ = self.rnn(x)
        scores: Tensor = self.fc(torch.relu(self.hidden(outputs[:, -1])))
        return scores


class Encoder(nn.Module):
    """Tokens, their places, one transformer layer with the norms first, and the mean over places."""

    def __init__(self, width: int = 16, heads: int = 2, vocabulary: int = 40, length: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.randn(length, width) / 4)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `(N, 8)` → `(N, 5)`."""
        x = self.tokens(x) + self.places
        y = self.norm1(x)
        query, key, value = (part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                             for part in (self.query, self.key, self.value))
        read = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(read.transpose(1, 2).flatten(2))
        x = x + self.down(torch.relu(self.up(self.norm2(x))))
        scores: Tensor = self.fc(x.mean(1))
        return scores


def _chain() -> nn.Module:
    return nn.Sequential(conv_norm(3, 16), conv_norm(16, 24, stride=2), conv_norm(24, 32),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


def _separable() -> nn.Module:
    return nn.Sequential(conv_norm(3, 16), conv_norm(16, 16, groups=16), conv_norm(16, 32, 1),
                         conv_norm(32, 32, stride=2, groups=32), conv_norm(32, 32, 1),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


def _grouped() -> nn.Module:
    return nn.Sequential(conv_norm(3, 16), conv_norm(16, 32, groups=4), conv_norm(32, 16, 1),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))


def _signal() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 16, 5, padding=2, bias=False), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Conv1d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv1d(32, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, CLASSES))


def _volume() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8), nn.ReLU(),
        nn.Conv3d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv3d(16, 16, (1, 3, 3)), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, CLASSES))


def _hourglass() -> nn.Module:
    """Down, and up again by transposed convolutions, one of them depthwise."""
    return nn.Sequential(
        conv_norm(3, 16, stride=2), nn.ConvTranspose2d(16, 16, 3, 2, 1, output_padding=1, bias=False),
        nn.BatchNorm2d(16), nn.ReLU(), conv_norm(16, 16, stride=2), nn.ConvTranspose2d(16, 16, 4, 2, 1, groups=16),
        nn.ReLU(), nn.ConvTranspose2d(16, 24, 2), nn.ReLU(), conv_norm(24, 16, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 24, bias=False), nn.BatchNorm1d(24), nn.ReLU(),
                         nn.Linear(24, CLASSES))


def _flattened() -> nn.Module:
    return nn.Sequential(conv_norm(1, 8), conv_norm(8, 16, stride=2), nn.Flatten(), nn.Linear(16 * 16, 32), nn.ReLU(),
                         nn.Linear(32, CLASSES))


# By name: at most 32 channels, at most 16×16 inputs, every architecture that coupling must tell apart.
NETWORKS: dict[str, Network] = {network.name: network for network in (
    Network("chain", (3, 12, 12), _chain), Network("residual", (3, 12, 12), Residual),
    Network("separable", (3, 12, 12), _separable), Network("grouped", (3, 12, 12), _grouped),
    Network("dense", (3, 12, 12), Dense), Network("signal", (2, 16), _signal), Network("mlp", (20,), _mlp),
    Network("flattened", (1, 8, 8), _flattened), Network("lstm", (8, 6), lambda: Recurrent(nn.LSTM)),
    Network("gru", (8, 6), lambda: Recurrent(nn.GRU, bias=False, num_layers=2)),
    Network("volume", (2, 6, 8, 8), _volume), Network("hourglass", (3, 12, 12), _hourglass),
    Network("bilstm", (8, 6), lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True)),
    Network("rnn", (8, 6), lambda: Recurrent(nn.RNN, bidirectional=True)),
    Network("encoder", (8,), Encoder, vocabulary=40),
)}
