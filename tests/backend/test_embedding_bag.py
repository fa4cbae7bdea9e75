from __future__ import annotations

import pytest
import torch
from torch import nn

from autocompress.backend.canonical.plain_layers import with_plain_layers
from autocompress.backend.graph.trace import trace
from autocompress.backend.layers.embedding_bag import PooledEmbedding


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
@pytest.mark.parametrize("padding_idx", [None, 0])
def test_a_bag_becomes_an_embedding_and_a_reduction(mode: str, padding_idx: int | None) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.EmbeddingBag(20, 6, mode=mode, padding_idx=padding_idx), nn.ReLU(), nn.Linear(6, 3))
    network.eval()
    inputs = torch.randint(0, 20, (8, 5), generator=torch.Generator().manual_seed(0))
    inputs[0] = 0  # a bag of padding alone
    plain = with_plain_layers(network, inputs)
    if mode == "max" and padding_idx is not None:
        assert plain is network
        return
    assert isinstance(plain[0], PooledEmbedding)  # type: ignore[index]
    torch.testing.assert_close(plain(inputs), network(inputs))
    table, _ = trace(plain, (5,), torch.int64, inputs)
    assert [layer.kind for layer in table.layers][-1] == "linear"
    assert isinstance(network[0], nn.EmbeddingBag), "the network that was given is left as it was"


def test_a_bag_with_offsets_is_left() -> None:
    class Offsets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.last = nn.EmbeddingBag(20, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.last(self.bag(x.flatten(), torch.arange(len(x)) * 5))
            return result

    network = Offsets().eval()
    assert with_plain_layers(network, torch.randint(0, 20, (8, 5))) is network
