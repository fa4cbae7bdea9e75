"""Which sparse layers an ONNX file stores as values and a mask, and which of them whole.

The writer and the size model both ask here, so that a predicted file stores what the written one does.
"""

from __future__ import annotations

from collections.abc import Sequence

from autocompress.core.sparsity import mask_bits, saves

TABLE_BYTES = 2600  # of the table and the nodes that restore all sparse layers of one pattern and width, about


def stored_sparse(pattern: str, bits: int, layers: Sequence[tuple[int, int]]) -> list[bool]:
    """Decide for each layer of one pattern and width whether the file stores it sparse.

    Below 8 bits every layer is: most of those grids are odd, and without a mask there is no zero. From 8 bits on a
    layer is where that is smaller, and none is where all of them together save less than the tables take.

    Args:
        pattern: `unstructured` or n:m.
        bits: width of the kept values.
        layers: `(weights, kept weights)` of each layer.
    """
    if bits < 8:
        return [True] * len(layers)
    is_smaller = [saves(pattern, weights, nonzero, bits) for weights, nonzero in layers]
    saved = sum(weights * (bits - mask_bits(pattern)) - nonzero * bits
                for (weights, nonzero), sparse in zip(layers, is_smaller, strict=True) if sparse)
    return is_smaller if saved > 8 * TABLE_BYTES else [False] * len(layers)
