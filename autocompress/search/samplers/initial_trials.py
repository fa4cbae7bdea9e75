"""Initial trials: the seeds that a search is given, the solutions of a solver, and uniform plans."""

from __future__ import annotations

from collections.abc import Sequence

import optuna

from autocompress.search import fidelity
from autocompress.space.projection import Projection
from autocompress.space.space import KnobKey, Value, Values

# The weight widths of uniform plans, in the order in which they are tried.
UNIFORM_BITS = (4, 8, 3, 2)
# The number of a solver's solutions that come before the uniform plans; the others come after them.
ALWAYS_SOLVED = 3
# The origin of trials that are seeds.
WARM = "warm start"


def initial_trials(sampler: optuna.samplers.BaseSampler, projection: Projection, trials: int,
                 seeds: Sequence[Values]) -> list[tuple[str, dict[KnobKey, Value]]]:
    """Return the seeds, a solver's solutions and uniform plans of one ratio and width, each with its origin and each
    plan once. A seed whose plan is that of another one has the other's origin. In a short search each source gets a
    share of the trials only.

    Args:
        sampler: its method `solutions`, if any, returns the settings of its solver, the most informative first.
        projection: of the space and the budget.
        trials: how many the search tries.
        seeds: settings that the search is given.
    """
    space = projection.space
    widths: list[int | None] = [bits for bits in UNIFORM_BITS if bits in space.weight_bits]
    solutions = getattr(sampler, "solutions", None)
    solver_settings = solutions() if solutions is not None else []
    if not solver_settings:
        widths = _gentlest_first(projection, widths)
    uniform = [space.uniform(bits) for bits in (widths[:2] if solver_settings else widths) or [None]]
    by_solver = [(fidelity.SOLVER, values) for values in solver_settings[:max(1, trials // 4)]]
    first = [*by_solver[:ALWAYS_SOLVED], *(("uniform", values) for values in uniform[:max(1, trials // 2)]),
             *by_solver[ALWAYS_SOLVED:]]

    def plan(values: Values) -> str:
        return projection.project(values).plan.fingerprint

    fingerprints = {plan(values) for _, values in first}
    warm_starts = [(WARM, dict(values)) for values in seeds if plan(values) not in fingerprints]
    by_plan: dict[str, tuple[str, dict[KnobKey, Value]]] = {}
    for origin, values in [*warm_starts[:max(1, trials // 4)], *first]:
        by_plan.setdefault(plan(values), (origin, values))
    return [*by_plan.values()]


def _gentlest_first(projection: Projection, widths: list[int | None]) -> list[int | None]:
    """Return the widths, with the widest one first whose uniform plan fits the budget without pruning.

    Without a sensitivity table a search should not begin with less than its budget allows."""
    space = projection.space
    for bits in sorted((bits for bits in space.weight_bits if bits < 16), reverse=True):
        projected = projection.project(space.uniform(bits))
        if not projected.squeeze and projected.bits_cap >= bits:
            return [bits, *(other for other in widths if other != bits)]
    return widths
