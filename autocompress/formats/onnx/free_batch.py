"""The number of samples kept free while a network is exported, where its forward asks `len(x)`.

Python wants an int of `len`, so the tracer would write the example's number into the graph, and then refuse the graph.
`torch.fx` replaces `len` for the same reason (`torch.fx.wrap("len")`).
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any

from torch import Tensor

_len = builtins.len


def _free_length(of: Sized) -> Any:
    return of.shape[0] if isinstance(of, Tensor) and of.dim() else _len(of)


@contextmanager
def free_length() -> Iterator[None]:
    """While this is open `len` of a tensor is its first size, which may be a symbol; of all else it is what it was."""
    builtins.len = _free_length
    try:
        yield
    finally:
        builtins.len = _len
