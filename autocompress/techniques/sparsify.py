"""Sparsity: single weights go, the layer keeps its shape.

`args = {"pattern": "unstructured", "density": share of weights kept}` or `{"pattern": "2:4"}` (n of every m consecutive
input channels), and `"criterion"`, one of `CRITERIA`, where it is not the default. A decomposed layer is sparse in each
factor. What it buys is bytes: no estimate of latency counts a zero as less work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from autocompress.core.layer import Layer, LayerTable, Part
from autocompress.core.plan import Plan, Scalar, Step
from autocompress.core.sparsity import UNSTRUCTURED, group_of, kept_weights, saves
from autocompress.errors import InputError
from autocompress.hardware.profile import HardwareProfile
from autocompress.techniques.base import (
    Parts,
    Technique,
    allowed,
    commonest,
    layer_at,
    one_of,
    plural,
    present,
    tally,
    whole,
)
from autocompress.techniques.knobs import ALL_LAYERS, WHOLE, Decisions, Knob, KnobKey, Setting, Value

# What decides which weights stay; sources stand in `autocompress.backend.sparsify.magnitude_wanda_obs`.
CRITERIA = ("obs", "wanda", "magnitude")
DEFAULT_CRITERION = "obs"
# Kinds of knobs: which weights of a layer may be zero, how many stay, and what decides, once for the network.
PATTERN, DENSITY, CRITERION = "pattern", "density", "sparse-criterion"
# Shares of weights that a sparse layer may keep: above, a mask costs more than it saves at most widths.
MIN_DENSITY, MAX_DENSITY = 0.001, 0.9


class SparsifySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Patterns to choose from beside leaving a layer dense, the smallest share of weights that `unstructured` keeps,
    and what may decide which (one choice for the whole model)."""

    patterns: tuple[str, ...] = (UNSTRUCTURED,)
    min_density: float = 0.1
    criteria: tuple[str, ...] = (DEFAULT_CRITERION,)
    skip: tuple[str, ...] = ()


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


class Sparsify(Technique):
    """Sparsity; a pattern for each layer, and the density of the unstructured one."""

    name = "sparsify"
    Settings = SparsifySpec

    def check_settings(self, settings: SparsifySpec) -> None:
        """InputError for an unknown pattern or criterion, and for a density out of range."""
        if not settings.patterns:
            raise InputError("patterns must not be empty")
        for pattern in settings.patterns:
            try:
                check_pattern(pattern)
            except InputError as error:
                raise InputError(f"patterns: {error}") from None
        if not MIN_DENSITY <= settings.min_density < MAX_DENSITY:
            raise InputError(f"min_density must be from {MIN_DENSITY} to below {MAX_DENSITY}, but got "
                             f"{settings.min_density}")
        one_of(settings.criteria, CRITERIA, "criteria")

    def knobs(self, space: Decisions, settings: SparsifySpec) -> list[Knob]:
        """A pattern and a density for each layer; patterns that do not fit the whole layer are not offered."""
        criteria = settings.criteria
        knobs = [Knob(kind=CRITERION, site=ALL_LAYERS, choices=criteria, plain=criteria[0])] * (len(criteria) > 1)
        for layer in space.table.layers:
            patterns = tuple(p for p in settings.patterns if can_be_sparse(layer) and fits(whole(layer), p))
            if patterns and allowed(layer.name, settings.skip):
                knobs.append(Knob(kind=PATTERN, site=layer.name, choices=(WHOLE, *patterns), plain=WHOLE, saves=True))
                if UNSTRUCTURED in patterns:
                    knobs.append(Knob(kind=DENSITY, site=layer.name, low=settings.min_density, high=MAX_DENSITY,
                                      plain=MAX_DENSITY))
        return knobs

    def decode(self, setting: Setting, parts: Parts) -> list[Step]:
        """A step for each layer whose parts the pattern fits, and of which it saves bytes at their width."""
        settings = setting.space.settings.get(self.name, SparsifySpec())
        assert isinstance(settings, SparsifySpec)
        criterion = str(setting.get(CRITERION, ALL_LAYERS, settings.criteria[0]))
        named: dict[str, Scalar] = {} if criterion == DEFAULT_CRITERION else {"criterion": criterion}
        steps = []
        for knob in setting.space.of_kind(PATTERN):
            pattern, layer_parts = str(setting[knob.key]), parts[knob.site]
            if pattern == WHOLE or not layer_parts or not all(fits(part, pattern) for part in layer_parts):
                continue
            args: dict[str, Scalar] = {PATTERN: pattern}
            density = 1.0
            if pattern == UNSTRUCTURED:
                density = args[DENSITY] = round(setting.number(DENSITY, knob.site), 4)
            bits = setting.weight_bits.get(knob.site, 32)
            if all(saves(pattern, p.weights, kept_weights(p.weights, pattern, density), bits) for p in layer_parts):
                steps.append(Step(knob.site, self.name, {**args, **named}))
        return steps

    def encode(self, space: Decisions, steps: Mapping[str, Step], parts: Parts) -> dict[KnobKey, Value]:
        """Pattern and density of each step, and the criterion of most of them."""
        values: dict[KnobKey, Value] = {}
        for kind in (PATTERN, DENSITY):
            for knob in (knob for knob in space.of_kind(kind) if knob.site in steps):
                args = steps[knob.site].args
                if kind in args or args[PATTERN] != UNSTRUCTURED:
                    values[knob.key] = args.get(kind, knob.high)
        criteria = [step.args.get("criterion", DEFAULT_CRITERION) for step in steps.values()]
        return values | {KnobKey(CRITERION, ALL_LAYERS): commonest(criteria, DEFAULT_CRITERION)}

    def check(self, step: Step, plan: Plan, table: LayerTable, profile: HardwareProfile) -> None:
        """InputError for a layer without weights to take out, and for an illegal pattern or density."""
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
            raise InputError(f"`criterion` at {step.site} must be one of {CRITERIA}, but got "
                             f"{step.args['criterion']!r}")

    def effect(self, step: Step, table: LayerTable, parts: Parts) -> None:
        """Each part has the pattern. InputError where it does not divide the channels."""
        layer_at(step, table)
        pattern, density = str(step.args["pattern"]), float(step.args.get("density", 1.0))
        for part in present(step, parts):
            if not fits(part, pattern):
                raise InputError(f"the pattern {pattern} at {step.site} must divide the input channels of {part.name}, "
                                 f"but it has {part.in_channels // part.groups}")
        parts[step.site] = tuple(
            msgspec.structs.replace(part, pattern=pattern, kept=kept_weights(part.weights, pattern, density))
            for part in present(step, parts))

    def describe(self, step: Step, table: LayerTable) -> str:
        """The share of weights kept, or n:m."""
        return sparsity_text(step)

    def summary(self, steps: Iterable[Step], table: LayerTable) -> str:
        """How many layers have each pattern."""
        patterns = Counter(map(sparsity_text, steps))
        return f"{self.name} {plural(patterns.total(), 'layer')} ({tally(patterns)})"


def sparsity_text(step: Step | None) -> str:
    """The share of weights kept, or n:m; nothing without a step."""
    if step is None:
        return ""
    return f"{float(step.args[DENSITY]):.0%}" if DENSITY in step.args else str(step.args.get(PATTERN, "?"))


SPARSIFY = Sparsify()
