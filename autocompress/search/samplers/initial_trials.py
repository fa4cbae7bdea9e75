"""The first trials, whatever the sampler: given seeds, a solver's solutions and uniform plans."""

from __future__ import annotations

from collections.abc import Sequence

import optuna

from autocompress.search import fidelity
from autocompress.space.projection import Projection
from autocompress.space.space import KnobKey, Value, Values

UNIFORM_BITS = (4, 8, 3, 2)
ALWAYS_SOLVED = 3
"""A solver's solutions that are tried whatever time is left for candidates; further ones come last."""
WARM = "warm start"
"""The origin of trials that were given to begin with."""


def initial_trials(sampler: optuna.samplers.BaseSampler, projection: Projection, trials: int,
                 seeds: Sequence[Values]) -> list[tuple[str, dict[KnobKey, Value]]]:
    """Return the seeds, a solver's solutions and uniform plans of one ratio and width, each with its origin and each
    plan once; a seed that is one of the others counts as that. A short search tries other things too.

    Args:
        sampler: where it has a method `solutions`, that says which settings its solver finds, the most telling first.
        projection: of the space and the budget.
        trials: how many the search tries.
        seeds: settings that are given to begin with.
    """
    space = projection.space
    widths: list[int | None] = [bits for bits in UNIFORM_BITS if bits in space.weight_bits]
    solutions = getattr(sampler, "solutions", None)
    solved = solutions() if solutions is not None else []
    if not solved:
        widths = _gentlest_first(projection, widths)
    uniform = [space.uniform(bits) for bits in (widths[:2] if solved else widths) or [None]]
    by_solver = [(fidelity.SOLVER, values) for values in solved[:max(1, trials // 4)]]
    first = [*by_solver[:ALWAYS_SOLVED], *(("uniform", values) for values in uniform[:max(1, trials // 2)]),
             *by_solver[ALWAYS_SOLVED:]]

    def plan(values: Values) -> str:
        return projection.project(values).plan.fingerprint

    known = {plan(values) for _, values in first}
    warm = [(WARM, dict(values)) for values in seeds if plan(values) not in known]
    chosen: dict[str, tuple[str, dict[KnobKey, Value]]] = {}
    for origin, values in [*warm[:max(1, trials // 4)], *first]:
        chosen.setdefault(plan(values), (origin, values))
    return [*chosen.values()]


def _gentlest_first(projection: Projection, widths: list[int | None]) -> list[int | None]:
    """The widths, before them the widest of the space whose uniform plan fits without cutting anything: where no table
    says what hurts, a search should not begin with less than its budget allows."""
    space = projection.space
    for bits in sorted((bits for bits in space.weight_bits if bits < 16), reverse=True):
        projected = projection.project(space.uniform(bits))
        if not projected.squeeze and projected.bits_cap >= bits:
            return [bits, *(other for other in widths if other != bits)]
    return widths
