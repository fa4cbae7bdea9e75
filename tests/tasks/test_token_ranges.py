"""Tokens, and the tables of a network that they index."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import autocompress
from autocompress.errors import InputError
from autocompress.tasks.token_ranges import require_rows


class Categories(nn.Module):
    """Each column of one tensor of whole numbers indexes a table of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, 2) for rows in (3, 9))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([table(x[:, place]) for place, table in enumerate(self.tables)], 1)


def test_columns_are_held_to_the_table_that_each_indexes() -> None:
    columns = torch.stack([torch.arange(40) % 3, torch.arange(40) % 9], 1)
    require_rows(Categories(), autocompress.Task(train=columns))
    with pytest.raises(InputError, match=r"from 0 to 2, the rows of the network's embedding, .* from 0 to 8"):
        require_rows(Categories(), autocompress.Task(train=columns.flip(1).contiguous()))
