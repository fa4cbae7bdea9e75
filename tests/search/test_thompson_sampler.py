"""The sampler that asks a solver: plans inside the budget, settled by the seed, bent by what was measured."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from engine_bench import SIZE, Bench

from autocompress.core.budget import Budget
from autocompress.core.front import objectives
from autocompress.core.layer import LayerTable
from autocompress.core.metric import Reference
from autocompress.core.sensitivity import SensitivityTable
from autocompress.errors import InputError
from autocompress.hardware.profile import load_profile
from autocompress.search.samplers.initial_trials import initial_trials
from autocompress.search.samplers.make import check_sampler, make_sampler
from autocompress.search.samplers.targets import setting
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
REFERENCE = Reference(ACCURACY, 0.95)


def _solver(table: LayerTable, size: int = SIZE, sensitivity_table: SensitivityTable = DAMAGES) -> Solver:
    return Solver(Projection(build_space(table, load_space("low-bit"), load_profile("host")), Budget(size_bytes=size)),
                  sensitivity_table)


def _bench(table: LayerTable, seed: int = 0, trials: int = 16) -> Bench:
    study = create_study(optuna.storages.InMemoryStorage(), "s",
                         SolverSampler(_solver(table, 8000), seed, REFERENCE), {},
                         objectives(ACCURACY))
    return Bench(table, study=study, trials=trials, size_bytes=8000)


def test_proposals_need_no_projection_and_the_first_is_the_solution(table: LayerTable) -> None:
    bench = _bench(table)
    proposed = [c for c in bench.run() if c.origin == "SolverSampler"]
    assert len(proposed) >= 8
    solution = bench.projection.space.decode(_solver(table, 8000).solve())
    assert proposed[0].plan == solution
    squeezed = [t.user_attrs["squeeze"] for t in bench.study.trials if t.user_attrs.get("origin") != "uniform"]
    assert squeezed[0] == 0 and np.mean(np.array(squeezed) == 0) >= 0.6
    assert all(bench.projection.fits(c.plan) for c in proposed if c.plan)
    assert len({c.plan.fingerprint for c in proposed if c.plan}) >= 4, "they differ, as far as so few knobs can"


def test_what_another_sampler_draws_is_moved_where_it_harms_least(table: LayerTable) -> None:
    finely = SensitivityTable(DAMAGES.entries | {
        ("prune", group): {(keep,): (1 - keep / channels) ** 2 for keep in range(1, channels)} for group, channels in
        (("a", 32), ("c", 48))})
    solver = _solver(table, sensitivity_table=finely)
    fitted = Bench(table, sampler="random", trials=16, fit=solver.fit)
    everyone = fitted.run()
    drawn = [fitted.study.trials[c.trial] for c in everyone if c.origin == "RandomSampler"]
    assert len(drawn) >= 8
    sensitivities, squeezed = [], []
    for trial in drawn:
        moved = setting(trial)
        assert fitted.projection.fits(solver.space.decode(moved))
        sensitivities.append(sum(solver.sensitivities(moved).values()))
        alike = fitted.projection.project(from_stored(trial.params)).values
        squeezed.append(sum(solver.sensitivities(alike).values()))
    assert np.mean(sensitivities) < 0.8 * np.mean(squeezed)
    uniform = [c.plan for c in everyone if c.origin == "uniform" and c.plan]
    widths = [{step.args["weight_bits"] for step in plan.find("quantize").values()} for plan in uniform]
    assert widths and all(len(of_plan) == 1 for of_plan in widths), "uniform plans stay uniform"


def test_it_is_settled_by_the_seed(table: LayerTable) -> None:
    def plans(seed: int) -> list[str]:
        return [c.plan.fingerprint for c in _bench(table, seed).run() if c.plan]

    assert plans(1) == plans(1)
    assert plans(1) != plans(2)


def test_what_was_measured_bends_the_weights(table: LayerTable) -> None:
    """Where channels cost more than the table says, draws come to weigh them more than where they cost nothing."""
    solver = _solver(table, 8000)

    def drawn(truth: float) -> float:
        study = optuna.create_study(directions=["maximize"])
        rng = np.random.default_rng(0)
        for _ in range(40):
            values = {k.key: k.choices[rng.integers(len(k.choices))] if k.choices else rng.uniform(k.low, k.high)
                      for k in solver.space.knobs}
            lost = sum(sensitivity * (truth if technique == "prune" else 1)
                       for (technique, _), sensitivity in solver.sensitivities(values).items())
            study.add_trial(optuna.trial.create_trial(
                params=stored(values), distributions=distributions(solver.space), value=0.95 - lost))
        sampler = SolverSampler(solver, 0, REFERENCE)
        return float(np.mean([np.log(sampler._technique_weights(study.trials)["prune"]) for _ in range(50)]))

    assert drawn(4.0) > drawn(0.1) + 1


def test_sites_that_lose_more_than_predicted_are_spared(table: LayerTable) -> None:
    """Where one site's cut costs ten times what the table says, and as little for another, draws come to know."""
    solver = _solver(table, 8000)
    study, rng = optuna.create_study(directions=["maximize"]), np.random.default_rng(0)
    for _ in range(40):
        values = {k.key: k.choices[rng.integers(len(k.choices))] if k.choices else rng.uniform(k.low, k.high)
                  for k in solver.space.knobs}
        sensitivities = solver.sensitivities(values)
        lost = sum(sensitivities.values()) + 9 * sensitivities[("prune", "a")] - 0.9 * sensitivities[("prune", "c")]
        study.add_trial(optuna.trial.create_trial(
            params=stored(values), distributions=distributions(solver.space), value=0.95 - 0.3 * lost))
    sampler, plain = SolverSampler(solver, 0, REFERENCE), dict.fromkeys(solver.techniques, 1.0)
    drawn = [sampler._decision_weights(study.trials, plain) for _ in range(50)]
    assert np.mean([np.log(weights[("prune", "a")] / weights[("prune", "c")]) for weights in drawn]) > 0.5


def test_float_activations_are_tried_early_and_followed_where_they_are_better(table: LayerTable) -> None:
    """Where trials with float activations lose nothing and others lose 0.2, about half of the proposals have them."""
    space = build_space(table, load_space("default"), load_profile("host"))
    solver = Solver(Projection(space, Budget(size_bytes=SIZE)), DAMAGES)
    sampler = SolverSampler(solver, 0, REFERENCE)
    plain, in_float, *_ = sampler.solutions()
    assert (plain["act", "*"], in_float["act", "*"]) == (8, 32)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=sampler)
    study.enqueue_trial(stored(in_float))
    for _ in range(40):
        trial = study.ask(distributions(solver.space))
        values = from_stored(trial.params)
        metrics = solver.estimate(values)
        study.tell(trial, [0.95 if values["act", "*"] == 32 else 0.75, metrics["size_bytes"], metrics["macs"]])
    widths = [trial.params["act:*"] for trial in study.trials]
    assert widths[0] == 32 and 0.2 < widths[1:].count(32) / 39 < 0.9


def test_small_models_are_proposed_too(table: LayerTable) -> None:
    bench = _bench(table, trials=24)
    sizes = [bench.projection.estimate(c.plan)["size_bytes"] for c in bench.run()
             if c.plan and c.origin == "SolverSampler"]
    assert min(sizes) < 0.8 * 8000
    assert max(sizes) > 0.9 * 8000


def test_what_the_solver_does_not_know_is_tried_all_the_same(table: LayerTable) -> None:
    space = build_space(table, load_space("all"), load_profile("host"))
    solver = Solver(Projection(space, Budget(size_bytes=8000)), DAMAGES)
    study = create_study(optuna.storages.InMemoryStorage(), "s", SolverSampler(solver, 0, REFERENCE), {},
                         objectives(ACCURACY))
    drawn = [study.ask(distributions(space)).params for _ in range(30)]
    for kind in ("criterion", "pattern", "grid"):
        names = [name for name in distributions(space) if name.split(":")[0] == kind]
        assert any(len({params[name] for params in drawn}) > 1 for name in names)


def test_auto_without_a_solver_is_tpe(table: LayerTable) -> None:
    assert make_sampler("auto", 0).name == "TPESampler"  # type: ignore[attr-defined]
    assert isinstance(make_sampler("auto", 0, _solver(table), REFERENCE), SolverSampler)
    check_sampler("auto")
    with pytest.raises(InputError, match="did you mean 'auto'"):
        check_sampler("outo")


def test_any_study_may_use_it(table: LayerTable) -> None:
    """A study of one's own, other knobs beside those of the space."""
    solver = _solver(table)
    study = optuna.create_study(direction="maximize", sampler=SolverSampler(solver, 0, REFERENCE))

    def objective(trial: optuna.Trial) -> float:
        for name, distribution in distributions(solver.space).items():
            trial._suggest(name, distribution)
        return trial.suggest_float("other", 0, 1)

    study.optimize(objective, n_trials=4)
    assert all(trial.params.keys() == {*distributions(solver.space), "other"} for trial in study.trials)


def test_a_search_begins_with_solutions_of_several_sizes_and_uniform_plans_before_the_smaller_ones(
        table: LayerTable) -> None:
    solver = _solver(table, 8000)
    projection = Projection(solver.space, Budget(size_bytes=8000))
    first = initial_trials(SolverSampler(solver, 0, REFERENCE), projection, 64, [])
    sizes = [projection.estimate(projection.project(values).plan)["size_bytes"] for _, values in first]
    assert all(size <= 8000 for size in sizes) and min(sizes) <= 0.6 * sizes[0]
    assert len({round(8 * size / 8000) for size in sizes}) >= 3
    origins = [origin for origin, _ in first]
    assert origins[0] == "SolverSampler" and max(i for i, o in enumerate(origins) if o == "uniform") < 5
    short = [origin for origin, _ in initial_trials(SolverSampler(solver, 0, REFERENCE), projection, 4, [])]
    assert short[0] == "SolverSampler" and short.count("SolverSampler") == 1 and "uniform" in short
