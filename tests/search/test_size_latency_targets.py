"""How small and how fast the next proposal is to be."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from engine_bench import Bench

from autocompress.core.budget import Budget
from autocompress.core.front import objectives
from autocompress.core.layer import LayerTable
from autocompress.core.metric import Reference
from autocompress.core.sensitivity import SensitivityTable
from autocompress.hardware.profile import load_profile
from autocompress.search.samplers.targets import LEAST_DROP, SizeLatencyTargets, _qualities
from autocompress.search.samplers.thompson_sampler import SolverSampler, distributions
from autocompress.search.storage import create_study
from autocompress.space.projection import Projection
from autocompress.space.solver.solver import Solver
from autocompress.space.space import build_space
from autocompress.space.spec import load_space
from autocompress.tasks.classification.metric import ACCURACY
from autocompress.techniques.knobs import from_stored, stored

DAMAGES = SensitivityTable.read({"prune": {"a": {24: 0.01, 16: 0.05, 8: 0.3}, "c": {36: 0.02, 24: 0.1, 12: 0.5}},
                  "bits": {layer: {6: 0.001, 5: 0.002, 4: 0.006, 3: 0.02, 2: 0.2} for layer in ("a", "b", "c", "fc")}})
WEIGHTS = {"prune": 1.0, "quantize": 1.0, "decompose": 1.0}
REFERENCE = Reference(ACCURACY, 0.95)


def _solver(table: LayerTable) -> Solver:
    space = build_space(table, load_space("low-bit"), load_profile("host"))
    return Solver(Projection(space, Budget(size_bytes=12_000)), DAMAGES)


def test_expected_accuracy_falls_with_harm_and_follows_what_was_measured() -> None:
    sensitivities, rng = np.log(np.geomspace(0.01, 1, 20)), np.random.default_rng(0)
    measured, places = 0.9 - 0.05 * np.exp(sensitivities), rng.normal(size=(20, 2))
    targets = np.array([0.02, 0.2, 0.9])
    expected = _qualities(sensitivities, sensitivities, places, measured, np.log(targets), np.full((3, 2), 20.0), rng)
    assert np.all(np.diff(expected) < 0)
    assert expected == pytest.approx(0.9 - 0.05 * targets, abs=0.01)
    constant = _qualities(sensitivities, sensitivities, places, np.full(20, 0.9), np.log(targets), places[:3], rng)
    assert constant == pytest.approx(np.full(3, 0.9))


def test_what_trials_nearby_came_to_counts_for_more_than_the_line_and_leaves_less_to_chance() -> None:
    """All follow a line but four of one size, which lost much more at as little sensitivity: there as little is
    expected, and
    surely."""
    rng = np.random.default_rng(0)
    sensitivities = np.log(np.concatenate([np.geomspace(0.01, 1, 20), np.full(4, 0.1)]))
    measured = np.concatenate([0.9 - 0.05 * np.exp(sensitivities[:20]), np.full(4, 0.5)])
    places = np.concatenate([rng.uniform(0, 4, (20, 2)), np.full((4, 2), 8.0)])
    at = np.array([[20.0, 20.0], [8.0, 8.0]])
    drawn = np.array(
        [_qualities(sensitivities, sensitivities, places, measured, np.log([0.1, 0.1]), at, rng) for _ in range(400)]
    )
    line, there = np.log(measured.max() + LEAST_DROP - drawn).T
    assert abs(there.mean() - np.log(0.4)) < 0.5 * abs(line.mean() - np.log(0.4))
    assert there.std() < 0.6 * line.std()


def test_what_is_proposed_has_more_harm_than_the_plain_solution_and_that_is_known() -> None:
    """At one size proposals did four times the plain solution's sensitivity, again and again: as much is expected of
    the next,
    not what the plain solution would come to."""
    rng = np.random.default_rng(0)
    plain = np.log(np.concatenate([np.geomspace(0.01, 1, 20), np.full(6, 0.2)]))
    sensitivities = plain + np.log(np.repeat([1.0, 4.0], [20, 6]))
    measured = 0.9 - 0.1 * np.exp(sensitivities)
    places = np.concatenate([rng.uniform(0, 4, (20, 2)), np.full((6, 2), 8.0)])
    drawn = [
        _qualities(sensitivities, plain, places, measured, np.log([0.2]), np.array([[8.0, 8.0]]), rng)
        for _ in range(200)
    ]
    assert np.mean(drawn) == pytest.approx(0.9 - 0.1 * 0.8, abs=0.02)


def test_where_the_front_has_nothing_is_aimed_at(table: LayerTable) -> None:
    """With trials of the full size alone, aims that are not for the full budget are smaller or faster."""
    solver, rng = _solver(table), np.random.default_rng(0)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    for weight in np.geomspace(0.1, 10, 8):
        values = solver.solve({"prune": float(weight)})
        metrics = solver.estimate(values)
        study.add_trial(optuna.trial.create_trial(
            params=stored(values), distributions=distributions(solver.space),
            values=[0.9 - 0.1 * sum(solver.sensitivities(values).values()), metrics["size_bytes"], metrics["macs"]]))
    aims = SizeLatencyTargets(solver, REFERENCE)
    drawn = [aims.draw(study.trials, WEIGHTS, rng) for _ in range(40)]
    rooms = {round(bounds.get("size_bytes", solver.size_bytes) / solver.size_bytes, 3) for bounds in drawn}
    assert 1.0 in rooms and min(rooms) < 0.6
    assert any("macs" in bounds for bounds in drawn)
    for bounds in drawn[:8]:
        bound = bounds.get("size_bytes", solver.size_bytes)
        assert solver.estimate(solver.propose({}, bounds))["size_bytes"] <= bound, "within reach"


def test_the_more_the_best_has_lost_the_more_proposals_use_the_whole_budget(table: LayerTable) -> None:
    """The same trials of all sizes, once with nothing lost at the budget, and once with 0.4 more lost everywhere."""
    solver = _solver(table)
    aims = SizeLatencyTargets(solver, REFERENCE)
    fractions = (1.0, 1.0, 0.7, 0.5, 0.25, 0.125, 0.0625)
    settings = [aims.solution(size_fraction, 1.0)[1] for size_fraction in fractions]

    def drawn(lost: float) -> list[float]:
        study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
        for values, size_fraction in zip(settings, fractions, strict=True):
            metrics = solver.estimate(values)
            study.add_trial(optuna.trial.create_trial(
                params=stored(values), distributions=distributions(solver.space),
                values=[0.95 - lost - 0.1 * (1 / size_fraction - 1) ** 0.5, metrics["size_bytes"], metrics["macs"]]))
        rng = np.random.default_rng(0)
        return [aims.draw(study.trials, WEIGHTS, rng).get("size_bytes", solver.size_bytes) for _ in range(60)]

    near, far = drawn(0.0), drawn(0.4)
    assert sum(size == solver.size_bytes for size in far) > 1.4 * sum(size == solver.size_bytes for size in near)
    assert np.mean(np.log(far)) > np.mean(np.log(near)), "what has lost nearly everything is no part of a front"


def test_sizes_are_aimed_at_down_to_the_least_that_can_be_reached(table: LayerTable) -> None:
    solver, rng = _solver(table), np.random.default_rng(0)
    targets = [SizeLatencyTargets(solver, REFERENCE) for _ in range(200)]
    drawn = [one.draw([], WEIGHTS, rng).get("size_bytes", solver.size_bytes) for one in targets]
    assert solver.least_bytes <= min(drawn) < 1.5 * solver.least_bytes


def test_what_was_measured_counts_not_what_was_proposed(table: LayerTable) -> None:
    """A setting that the projection squeezes into the budget has the sensitivity and the size of what became of it."""
    study = create_study(optuna.storages.InMemoryStorage(), "s", SolverSampler(_solver(table), 0, REFERENCE), {},
                         objectives(ACCURACY))
    bench = Bench(table, study=study, size_bytes=12_000, trials=8)
    bench.run()
    aims, squeezed = SizeLatencyTargets(_solver(table), REFERENCE), [t for t in study.trials if t.user_attrs["squeeze"]]
    assert squeezed
    for trial in study.trials:
        assert np.exp(aims._costs_of(trial)[0]) <= 12_000
    plain = [sum(_solver(table).sensitivities(from_stored(trial.params)).values()) for trial in squeezed]
    assert all(
        aims.sensitivities(trial).sum() > sensitivity for trial, sensitivity in zip(squeezed, plain, strict=True)
    )
