"""Masks of sparse weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Mask:
    """`kept`: bool, of the weight's shape; False where the weight is zero."""

    pattern: str
    kept: Tensor


class Masked(nn.Module):
    """Parametrisation of a weight that is zero where it was taken out."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self.register_buffer("kept", mask.kept, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Weight → weight with zeros; no gradient reaches those."""
        assert isinstance(self.kept, Tensor)
        return weight * self.kept
