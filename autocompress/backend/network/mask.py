"""Masks of sparse weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Mask:
    """The mask of a sparse weight: its pattern, and `kept`, bool of the weight's shape, False where it is zero."""

    pattern: str
    kept: Tensor


class Masked(nn.Module):
    """Parametrisation of a sparse weight: training leaves it zero where the mask is False."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self.register_buffer("kept", mask.kept, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with zeros where the mask is False; no gradient reaches those."""
        assert isinstance(self.kept, Tensor)
        return weight * self.kept
