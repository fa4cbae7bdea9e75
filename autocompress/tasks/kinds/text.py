"""Text: one class for each text, from tokens and their attention mask."""

from __future__ import annotations

from autocompress.errors import InputError
from autocompress.tasks.kinds.base import KindContext, KindFacts
from autocompress.tasks.kinds.classification import classification


def text(context: KindContext) -> KindFacts:
    """As `classification`. InputError where the network reads no tokens."""
    names = context.source.inputs
    if all(context.batch[name].is_floating_point() for name in names):
        raise InputError(f"{context.source.name}: the network must read tokens, whole numbers, but its inputs "
                         f"({', '.join(names)}) are other numbers: for those use --task classification")
    return classification(context)
