"""Layers that no technique can touch, as far as they weigh: what is said where a budget cannot be met with
them, or where nothing is left to decide."""

from __future__ import annotations

from autocompress.core.layer import LayerTable
from autocompress.quantities import format_bytes

NAMED = 5
# A layer without a name.
ITSELF = "parameters of the network itself"
# Of all bytes: smaller layers are not named.
LEAST_SHARE = 0.02
REMEDY = ("They can be compressed once each is a convolution, linear layer, embedding or attention of torch's own "
          "(torch.nn), called once as a module with weights that nothing else reads")


def stays_whole(table: LayerTable) -> str:
    """A sentence that names the largest layers that stay as they are, with bytes and reasons, and what can be done;
    nothing where they hardly count."""
    total = sum(layer.params for layer in table.layers)
    locked = sorted(
        (layer for layer in table.layers if layer.not_compressible_reason and layer.params >= LEAST_SHARE * total),
        key=lambda layer: -layer.params,
    )
    if not locked:
        return ""
    named = "; ".join(f"{layer.name or ITSELF} ({format_bytes(4 * layer.params)}: "
                      f"{layer.not_compressible_reason})" for layer in locked[:NAMED])
    more = f" and {len(locked) - NAMED} more" if len(locked) > NAMED else ""
    whole = format_bytes(4 * sum(layer.params for layer in locked))
    return (f". Of the original's {format_bytes(4 * total)} of weights {whole} stay as they are: {named}{more}. "
            + REMEDY)


def untouched_layers(table: LayerTable) -> str:
    """Sentences that name all layers that stay as they are, with the reasons, and what can be done."""
    locked = [f"{layer.name or ITSELF}: {layer.not_compressible_reason}" for layer in table.layers
              if layer.not_compressible_reason]
    return f"Layers that cannot be touched: {'; '.join(locked) or 'none'}" + (f". {REMEDY}" if locked else "")
