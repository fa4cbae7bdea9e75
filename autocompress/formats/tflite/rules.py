"""All rules by which torch's operators are lowered."""

from __future__ import annotations

from autocompress.formats.tflite import convolutions, operators
from autocompress.formats.tflite.graph import Graph
from autocompress.formats.tflite.lowering import Lowering
from autocompress.formats.tflite.trace import Traced

RULES = {**operators.RULES, **convolutions.RULES}


def lower(traced: Traced) -> Graph:
    """The graph of a traced network in TFLite's operators.

    Raises:
        TrialError: for an operation that has no rule, by its name.
    """
    return Lowering(traced, RULES).graph
