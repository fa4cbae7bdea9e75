"""The layer table completed by the exported graph: layers that it does not show, and bytes beside parameters."""

from __future__ import annotations

import msgspec
from torch import nn

from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan
from autocompress.formats.onnx.protobuf import tensor_bytes
from autocompress.formats.onnx.size import file_bytes
from autocompress.formats.onnx.template import Template
from autocompress.techniques import resolve
from autocompress.techniques.quantize import KINDS


def as_exported(table: LayerTable, template: Template, folded: nn.Module) -> LayerTable:
    """Lock layers that the exported graph does not show as one node, or, of those with float activations, as one
    weight: they could not be stored compressed. The bytes of the skeleton make up for layers of several tensors, and
    for those that the file does not hold because they are never run."""
    anchored, arranged = set(template.anchors.values()), set(template.arranged.values())
    layers = tuple(
        msgspec.structs.replace(layer, not_compressible_reason="the exported graph does not show it as one node")
        if layer.kind in KINDS and layer.compressible and layer.name not in anchored
        and not (layer.float_activations and layer.name in arranged) else layer
        for layer in table.layers)
    state, stored = folded.state_dict(), dict.fromkeys(table.by_name, 0)
    for name, slot in template.slots.items():
        value, owner = state[slot.key], slot.key.rpartition(".")[0]
        stored[owner] = stored.get(owner, 0) + tensor_bytes(len(name), tuple(value.shape), value.nbytes)
    skeleton_bytes = template.skeleton_bytes
    for name, parts in resolve(table, Plan()).items():
        if table.by_name[name].kind == "other" or not stored[name]:
            skeleton_bytes += stored[name] - file_bytes(parts, 0)
    return msgspec.structs.replace(table, layers=layers, skeleton_bytes=skeleton_bytes)
