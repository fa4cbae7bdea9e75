"""The sensitivity table of a network for one space: which options there are, and what each would do to it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from autocompress.backend.sensitivity.fisher import sensitivities
from autocompress.core.layer import Layer
from autocompress.core.plan import Scalar, Step
from autocompress.core.sensitivity import SensitivityTable
from autocompress.space.space import WHOLE, Space
from autocompress.study.workbench import Workbench
from autocompress.techniques.base import whole
from autocompress.techniques.decompose import rank_args
from autocompress.techniques.prune import DEFAULT_CRITERION, legal_keep
from autocompress.techniques.quantize import quantize_args

LEVELS = 10
"""Numbers of channels, evenly spaced, at which a group is asked about."""
SHARES = (0.6, 0.4, 0.25, 0.15)


def sensitivity(bench: Workbench, space: Space, seconds: float = math.inf) -> SensitivityTable:
    """Predicted sensitivity of every option that `space` has at every site, on the bench's calibration data; of fewer
    options,
    on fewer samples, where `seconds` are too short. TrialError where they are too short for any."""
    found = options(space)
    by_step = sensitivities(bench.network.compressor, [step for step, _ in found], seconds)
    return SensitivityTable.of(
        (step, share, sensitivity)
        for (step, share), sensitivity in zip(found, by_step, strict=True)
        if not math.isnan(sensitivity)
    )


def options(space: Space) -> list[tuple[Step, float]]:
    """Steps that are asked about, each with the share of the weights that its factors keep, or 0."""
    return [*_channels(space), *_widths(space), *_ranks(space)]


def _channels(space: Space) -> Iterator[tuple[Step, float]]:
    named: dict[str, Scalar] = {} if space.criterion == DEFAULT_CRITERION else {"criterion": space.criterion}
    common = 8 if 8 in space.weight_bits else min(space.weight_bits)  # a plan's own widths may ask for coarser steps
    for group in space.table.groups:
        if f"prune:{group.name}" in space.by_name:
            wanted = (group.channels * (1 - space.max_ratio * level / LEVELS) for level in range(1, LEVELS + 1))
            kept = {legal_keep(group, channels, space.profile, (common,)) for channels in wanted}
            for keep in sorted(kept - {group.channels}):
                yield Step(group.name, "prune", {"keep": keep, **named}), 0.0


def _widths(space: Space) -> Iterator[tuple[Step, float]]:
    for layer in space.table.layers:
        knob = space.by_name.get(f"bits:{layer.name}")
        for bits in (int(choice) for choice in (knob.choices if knob else ())):
            if bits < 16:
                yield Step(layer.name, "quantize", quantize_args(bits, 32, space.settings)), 0.0


def _ranks(space: Space) -> Iterator[tuple[Step, float]]:
    for layer in space.table.layers:
        knob = space.by_name.get(f"method:{layer.name}")
        for method in (str(choice) for choice in (knob.choices if knob else ()) if choice != WHOLE):
            for share in SHARES:
                step = _factors(layer, method, share, space) if share >= space.min_share else None
                if step is not None:
                    yield step, share


def _factors(layer: Layer, method: str, share: float, space: Space) -> Step | None:
    args = rank_args(whole(layer), method, share, space.profile.rank_multiple)
    return None if args is None else Step(layer.name, "decompose", {"method": method, **args})
