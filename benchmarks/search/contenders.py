"""Who searches: each a function that proposes plans to a run until its time is up or it has nothing left."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Iterator
from functools import partial

import optuna
from arena import Run

from autocompress.core.budget import Budget
from autocompress.core.front import objectives
from autocompress.core.metric import Reference
from autocompress.core.plan import Plan
from autocompress.core.sensitivity import SensitivityTable
from autocompress.errors import InfeasibleError
from autocompress.search.clock import Settings
from autocompress.search.efforts import Schedule
from autocompress.search.engine import Engine
from autocompress.search.executors.inline import Inline
from autocompress.search.samplers.initial_trials import UNIFORM_BITS
from autocompress.search.samplers.make import make_sampler
from autocompress.search.samplers.thompson_sampler import SolverSampler, distributions
from autocompress.search.storage import create_study
from autocompress.search.study_store import StudyStore
from autocompress.space.projection import MARGIN, Projection
from autocompress.space.solver.solver import Solver
from autocompress.space.space import KnobKey, Space, Values
from autocompress.tasks.classification.metric import ACCURACY
from autocompress.techniques.knobs import from_stored

OURS = "ours"
NO_END = 1_000_000
"""Trials; the clock comes first."""

SIZE = "size"
"""A knob more: the size into which a plan is moved, 0 the least that can be reached, 1 the budget."""

Contender = Callable[[Run], None]
PlanOf = Callable[[Run, Values], Plan]


def uniform(run: Run) -> None:
    """Every width, all channels cut alike: the least cut that fits each size. What an engineer tries comes first."""
    widths = sorted(run.space.weight_bits, key=lambda bits: (bits not in UNIFORM_BITS, bits != 4, -bits))
    for size in run.path():
        projection = Projection(run.space, Budget(size_bytes=size))
        for bits in widths:
            if run.closed():
                return
            run.attempt(projection.project(run.space.uniform(bits)).plan)


def solver(run: Run) -> None:
    """The path of solutions of least predicted sensitivity, nothing learnt from what they turn out to be."""
    sensitivity_table = run.sensitivity_table()
    for size in run.path():
        if run.closed():
            return
        projection = Projection(run.space, Budget(size_bytes=size))
        run.attempt(projection.project(Solver(projection, sensitivity_table).solve()).plan)


def greedy(run: Run) -> None:
    """Every site at its smallest option below a common sensitivity, the lowest that fits each size."""
    sensitivity_table = run.sensitivity_table()
    thresholds = sorted({0.0, *_harms(sensitivity_table)})
    for size in run.path():
        if run.closed():
            return

        def fits(place: int, size: int = size) -> bool:
            plan = equal_damage(run.space, sensitivity_table, thresholds[place])
            return run.projection.estimate(plan)["size_bytes"] <= size

        place = bisect.bisect_left(range(len(thresholds)), True, key=fits)
        if place < len(thresholds):
            run.attempt(equal_damage(run.space, sensitivity_table, thresholds[place]))


def equal_damage(space: Space, sensitivity_table: SensitivityTable, threshold: float) -> Plan:
    """What every site can bear up to the threshold in nats; where several options leave as little, the least harmful.
    """
    values = space.uniform()
    for (technique, site), costs in sensitivity_table.entries.items():
        legal = [(option[-1], nats, option) for option, nats in costs.items() if nats <= threshold]
        if legal:
            of_site = space.techniques[technique].values(space, site, min(legal)[2])
            values |= {KnobKey(kind, site): value for kind, value in of_site.items() if (kind, site) in space.by_key}
    return space.decode(values)


def _harms(sensitivity_table: SensitivityTable) -> Iterator[float]:
    for costs in sensitivity_table.entries.values():
        yield from costs.values()


def ask_tell(make: Callable[[int], optuna.samplers.BaseSampler], plan_of: PlanOf, constrained: bool, run: Run) -> None:
    """A sampler of Optuna by ask and tell. `constrained`: the budget is a constraint that it may learn."""
    study = optuna.create_study(directions=[*objectives(ACCURACY).values()], sampler=make(run.seed))
    knobs = {**distributions(run.space), SIZE: optuna.distributions.FloatDistribution(0.0, 1.0)}
    if plan_of is not sized:
        del knobs[SIZE]
    while not run.closed():
        trial = study.ask(knobs)
        metrics = run.attempt(plan_of(run, from_stored(trial.params)))
        if metrics is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        if constrained:
            for name, excess in run.budget.excess(metrics).items():
                trial.set_constraint(name, excess)
        study.tell(trial, [metrics[name] for name in objectives(ACCURACY)])


def plain(run: Run, values: Values) -> Plan:
    """The plan as drawn."""
    return run.space.decode(values)


def projected(run: Run, values: Values) -> Plan:
    """The plan moved into the budget, and up to it, where the table says that it costs least."""
    return run.projection.project(run.solver.fit(values)).plan


def sized(run: Run, values: Values) -> Plan:
    """The same into a size of the sampler's choice: the paths know many sizes, so may it."""
    size = run.between(float(values[KnobKey(SIZE, "")]))
    knobs = {key: value for key, value in values.items() if key.kind != SIZE}
    fitted = run.solver.fit(knobs, {"size_bytes": size * MARGIN})
    return Projection(run.space, Budget(size_bytes=size)).project(fitted).plan


def ours(run: Run) -> None:
    """The engine and the sampler as `autocompress search` runs them, in memory."""
    reference = Reference(ACCURACY, run.original["accuracy"])
    sampler = SolverSampler(run.solver, run.seed, reference)
    study = create_study(optuna.storages.InMemoryStorage(), OURS, sampler, {}, objectives(ACCURACY))
    settings = Settings(trials=NO_END, schedule=Schedule(short=0, long=0))
    engine = Engine(StudyStore(study), run.projection, run.budget, reference, settings, time.perf_counter(),
                    lambda event: None, run.closed)
    try:
        engine.run(Inline.of(run.evaluate, run.closed))
    except InfeasibleError:
        if not run.closed():
            raise
    run.duplicates = sum(c.status == "duplicate" for c in engine.candidates())


def _peers() -> Iterator[tuple[str, Contender]]:
    samplers: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
        "random": partial(make_sampler, "random"),
        "TPE": lambda seed: optuna.samplers.TPESampler(seed=seed),
        "multivariate TPE": partial(make_sampler, "tpe"),
        "NSGA-II": partial(make_sampler, "nsga2"),
        "GP": partial(make_sampler, "gp")}
    for name, make in samplers.items():
        yield f"{name}, sized", partial(ask_tell, make, sized, False)
        yield f"{name}, projected", partial(ask_tell, make, projected, False)
        yield name, partial(ask_tell, make, plain, True)


SETTLED: dict[str, Contender] = {"uniform": uniform, "solver alone": solver, "equal damage": greedy}
"""They draw nothing: one seed is as good as another."""
CONTENDERS: dict[str, Contender] = {**SETTLED, **dict(_peers()), OURS: ours}
