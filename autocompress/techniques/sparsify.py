"""Sparsity: single weights go, the layer keeps its shape.

`args = {"pattern": "unstructured", "density": share of weights kept}` or `{"pattern": "2:4"}` (n of every m consecutive
input channels), and `"criterion"`, one of `CRITERIA`, where it is not the default. A decomposed layer is sparse in each
factor. What it buys is bytes: no estimate of latency counts a zero as less work.
"""

from __future__ import annotations

import msgspec

from autocompress.core.layer import Layer, LayerTable, Part
from autocompress.core.plan import Plan, Step
from autocompress.core.sparsity import UNSTRUCTURED, group_of, kept_weights
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile
from autocompress.techniques.base import Parts, Technique, layer_at, present

CRITERIA = ("obs", "wanda", "magnitude")
"""What decides which weights stay; sources stand in `autocompress.backend.sparsify.magnitude_wanda_obs`."""
DEFAULT_CRITERION = "obs"


def check_pattern(pattern: object) -> None:
    """InputError for what is no pattern."""
    if pattern != UNSTRUCTURED:
        group_of(str(pattern))


def fits(part: Part, pattern: str) -> bool:
    """Whether the input channels of a part fall into whole groups of the pattern."""
    return pattern == UNSTRUCTURED or (part.in_channels // part.groups) % group_of(pattern)[1] == 0


def can_be_sparse(layer: Layer) -> bool:
    """Whether a layer has weights to take out."""
    return layer.kind in ("conv", "linear") and layer.compressible


def _check(step: Step, plan: Plan, table: LayerTable, profile: HardwareProfile) -> None:
    layer, pattern, density = layer_at(step, table), step.args.get("pattern"), step.args.get("density")
    if not can_be_sparse(layer):
        raise InputError(
            f"{step.site} cannot be sparse: {layer.not_compressible_reason or layer.kind + ' layers stay whole'}"
        )
    check_pattern(pattern)
    if pattern == UNSTRUCTURED and (isinstance(density, str) or density is None or not 0 < density < 1):
        raise InputError(f"`density` at {step.site} must be between 0 and 1, but got {density!r}")
    if pattern != UNSTRUCTURED and density is not None:
        raise InputError(f"`density` at {step.site} goes with {UNSTRUCTURED!r}, but the pattern is {pattern!r}, "
                         "which has its own: leave it out")
    if step.args.get("criterion", DEFAULT_CRITERION) not in CRITERIA:
        raise InputError(f"`criterion` at {step.site} must be one of {CRITERIA}, but got {step.args['criterion']!r}")


def _effect(step: Step, table: LayerTable, parts: Parts) -> None:
    layer_at(step, table)
    pattern, density = str(step.args["pattern"]), float(step.args.get("density", 1.0))
    for part in present(step, parts):
        if not fits(part, pattern):
            raise InputError(f"the pattern {pattern} at {step.site} must divide the input channels of {part.name}, but "
                             f"it has {part.in_channels // part.groups}")
    parts[step.site] = tuple(
        msgspec.structs.replace(part, pattern=pattern, kept=kept_weights(part.weights, pattern, density))
        for part in present(step, parts))


SPARSIFY = Technique("sparsify", _check, _effect)
