"""Small networks as strangers write them: samples that are not first, layers of one's own, attention of every call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.testing.networks import CLASSES, Network, conv_norm


class Graph(nn.Module):
    """Nodes with features: norms over nodes, a matrix of one's own, and neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("near", torch.softmax(torch.randn(12, 12), 1))
        self.first, self.second = nn.Parameter(torch.randn(6, 16) / 4), nn.Linear(16, 24)
        self.norm, self.head = nn.BatchNorm1d(12), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 12, 6)` → `(N, 5)`."""
        x = torch.relu(self.near @ x @ self.first)
        x = torch.relu(self.norm(self.second(self.near @ x)))
        scores: Tensor = self.head(x.mean(1))
        return scores


class TimeFirst(nn.Module):
    """Frames before samples, folded, through convolutions and an LSTM whose batch is second."""

    def __init__(self) -> None:
        super().__init__()
        self.eyes = nn.Sequential(conv_norm(3, 16, stride=2), conv_norm(16, 16, stride=2))
        self.rnn, self.head = nn.LSTM(16, 12), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 6, 3, 10, 10)` → `(N, 5)`."""
        count, steps = x.shape[:2]
        y = self.eyes(x.transpose(0, 1).reshape(steps * count, *x.shape[2:])).mean((2, 3))
        scores: Tensor = self.head(self.rnn(y.view(steps, count, -1))[0][-1])
        return scores


class Planes(nn.Module):
    """Channels of a picture as samples, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.eyes = nn.Sequential(conv_norm(1, 8), conv_norm(8, 8, stride=2))
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, 12, 12)` → `(N, 5)`."""
        scores: Tensor = self.head(self.eyes(x.reshape(-1, 1, 12, 12)).mean((2, 3)).reshape(len(x), -1))
        return scores


class Windows(nn.Module):
    """Windows of tokens in the batch, with an offset for each head and pair of places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(1, 16, 2, 2), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.offset, self.head = nn.Parameter(torch.randn(2, 16, 16)), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 1, 16, 16)` → `(N, 5)`."""
        x = self.embed(x).permute(0, 2, 3, 1)
        t = torch.roll(self.norm(x), (-2, -2), (1, 2)).view(-1, 2, 4, 2, 4, 16).permute(0, 1, 3, 2, 4, 5)
        q, k, v = self.qkv(t.reshape(-1, 16, 16)).view(-1, 16, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        t = (q @ k.transpose(-2, -1) / 8**0.5 + self.offset).softmax(-1) @ v
        t = self.out(t.transpose(1, 2).reshape(-1, 16, 16)).view(-1, 2, 2, 4, 4, 16).permute(0, 1, 3, 2, 4, 5)
        scores: Tensor = self.head((x + t.reshape(x.shape)).mean((1, 2)))
        return scores


class Tokens(nn.Module):
    """Tokens with padding, places looked up once for all samples, a layer on a parameter, and attention over places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(40, 16, padding_idx=0), nn.Embedding(14, 16)
        self.table, self.once = nn.Parameter(torch.randn(14, 1, 16)), nn.Linear(16, 16)
        self.attend, self.hidden, self.head = nn.MultiheadAttention(16, 4), nn.Linear(16, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `(N, 14)` → `(N, 5)`."""
        y = self.embed(x).transpose(0, 1) + self.places(torch.arange(x.shape[1]))[:, None] + self.once(self.table)
        y = y + self.attend(y, y, y, key_padding_mask=x == 0)[0]
        scores: Tensor = self.head(torch.relu(self.hidden(y.mean(0))))
        return scores


class OneQuery(nn.Module):
    """Latents that read a sequence, and one query that reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.latents = nn.Linear(6, 16), nn.Parameter(torch.randn(4, 16))
        self.read, self.query = nn.MultiheadAttention(16, 2, batch_first=True), nn.Parameter(torch.randn(1, 1, 16))
        self.answer, self.head = nn.MultiheadAttention(16, 2), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 18, 6)` → `(N, 5)`."""
        y, latents = self.embed(x), self.latents.expand(len(x), -1, -1)
        latents = (latents + self.read(latents, y, y)[0]).transpose(0, 1)
        scores: Tensor = self.head(self.answer(self.query.expand(1, len(x), -1), latents, latents)[0][0])
        return scores


class ClassToken(nn.Module):
    """torch's own encoder behind patches and a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token = nn.Conv2d(3, 24, 4, 4), nn.Parameter(torch.randn(1, 1, 24))
        layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True, norm_first=True)
        self.places, self.body = nn.Parameter(torch.randn(1, 10, 24)), nn.TransformerEncoder(
            layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, 12, 12)` → `(N, 5)`."""
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        scores: Tensor = self.head(self.body(x)[:, 0])
        return scores


class OwnLayers(nn.Module):
    """A bare kernel before a norm, padding as text, of an even kernel, and by reflection."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.norm = nn.Parameter(torch.randn(16, 3, 3, 3) / 5), nn.BatchNorm2d(16)
        self.same, self.even = nn.Conv2d(16, 16, 3, padding="same"), nn.Conv2d(16, 24, 4, padding="same")
        self.reflected = nn.Conv2d(24, 16, 3, padding=1, padding_mode="reflect")
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, 12, 12)` → `(N, 5)`."""
        x = torch.relu(self.norm(F.conv2d(x, self.kernel, padding=1)))
        x = torch.relu(self.even(torch.relu(self.same(x))))
        scores: Tensor = self.head(torch.relu(self.reflected(x)).mean((2, 3)))
        return scores


class Shared(nn.Module):
    """One trunk for two pictures, an embedding's weight as a classifier's."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.hidden = nn.Sequential(conv_norm(3, 8, stride=2), conv_norm(8, 8)), nn.Linear(16, CLASSES)
        self.words, self.head = nn.Embedding(CLASSES, CLASSES), nn.Linear(CLASSES, CLASSES, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 2, 3, 10, 10)` → `(N, 5)`."""
        one, other = (self.trunk(x[:, side]).mean((2, 3)) for side in (0, 1))
        y = torch.relu(self.hidden(torch.cat([(one - other).abs(), one * other], 1)))
        scores: Tensor = self.head(y) + self.words(torch.arange(CLASSES)).sum(0)
        return scores


STRANGERS: dict[str, Network] = {network.name: network for network in (
    Network("graph", (12, 6), Graph), Network("time first", (6, 3, 10, 10), TimeFirst),
    Network("planes", (3, 12, 12), Planes), Network("windows", (1, 16, 16), Windows),
    Network("tokens", (14,), Tokens, vocabulary=40), Network("one query", (18, 6), OneQuery),
    Network("class token", (3, 12, 12), ClassToken), Network("own layers", (3, 12, 12), OwnLayers),
    Network("shared", (2, 3, 10, 10), Shared),
)}
"""By name: each was once refused, crashed or came out wrong."""
LOCKED: dict[str, set[str]] = {
    "graph": {""}, "windows": {"", "norm"}, "tokens": {""}, "one query": {""}, "own layers": {""},
    "class token": {"", "body.layers.0.norm1", "body.layers.0.norm2"},
    "shared": {"trunk.0.0", "trunk.1.0", "words", "head"},
}
"""Layers that stay whole, by network: bare parameters, norms of layers, weights that are read twice."""
