"""What a search must know of a file format before any file is written: the bytes of a plan's file, and legality.

`autocompress.formats.base.Format` is the whole protocol; estimates and spaces see only this half of it, which needs
neither torch nor a runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from autocompress.core.layer import Layer, Part
from autocompress.core.plan import Step


class FormatFacts(Protocol):
    """The half of a file format that is arithmetic."""

    # Name by which a profile or the command line asks for the format.
    name: str

    def legal(self, step: Step, layer: Layer) -> str:
        """Say why the format cannot hold what `step` makes of `layer`; an empty text where it can.

        The layer is that of the step's site: of a group the layer after which it is named, of a block its last one.
        """
        return ""

    def size(self, parts: Sequence[Part], skeleton_bytes: int = 0, absent: Sequence[Part] = ()) -> int:
        """Predict the bytes of the file of a network.

        Args:
            parts: every executed layer, in order of execution.
            skeleton_bytes: bytes of the original's file that hold no parameter of a layer.
            absent: convolutions and linear layers of the original that dropped blocks took along.
        """
        raise NotImplementedError

    def memory(self, activation_bytes: int, parts: Sequence[Part]) -> int:
        """Predict the bytes of RAM that a network takes in the format's runtime.

        Args:
            activation_bytes: the largest sum of activations that are alive at once.
            parts: every executed layer, in order of execution.
        """
        return activation_bytes
