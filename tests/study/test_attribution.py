"""What techniques bought: the sums add up, measured figures are those of `evaluate`, and time is kept."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import pytest

from autocompress.core.attribution import Attribution, TechniqueShare
from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.plan import Plan, Step
from autocompress.core.sensitivity import SensitivityTable
from autocompress.errors import EnvironmentFault, TrialError
from autocompress.hardware.profile import load_profile
from autocompress.space.projection import Projection
from autocompress.space.space import build_space
from autocompress.space.spec import load_space
from autocompress.study.attribution import ACTIVATIONS, MEASURED, NO_TIME, STOPPED, attribute
from autocompress.study.workbench import Workbench
from autocompress.tasks.classification.metric import ACCURACY
from autocompress.testing.networks import NETWORKS, task_data

BUDGET = Budget(size_bytes=10_000)


class Scene:
    """A network on its bench, a plan of four techniques for it, and the plan's trial."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.projection = Projection(
            build_space(bench.network.table, load_space("all"), bench.evaluator.profile), BUDGET
        )
        group = bench.network.table.groups[0]
        convs = [layer.name for layer in bench.network.table.layers if layer.kind == "conv" and layer.compressible]
        self.pruned, self.sparse = group.name, convs[-1]
        self.plan = Plan.of(
            [
                Step(group.name, "prune", {"keep": 8}),
                Step(convs[-1], "sparsify", {"pattern": "2:4"}),
                *(
                    Step(layer.name, "quantize", {"weight_bits": 4, "activation_bits": 8, "range": "mse"})
                    for layer in bench.network.table.layers
                    if layer.kind in ("conv", "linear") and layer.compressible
                ),
            ]
        )
        self.candidate = Candidate(
            trial=7, status="complete", plan=self.plan, evaluations=(bench.evaluator.evaluate(self.plan, 0),)
        )
        self.sensitivity_table = SensitivityTable.read({"prune": {group.name: {8: 0.25}},
                               "bits": {layer.name: {4: 0.5} for layer in bench.network.table.layers}})

    def attribute(
        self,
        seconds: float = math.inf,
        everyone: tuple[Candidate, ...] = (),
        should_stop: Callable[[], bool] = lambda: False,
        sensitivity_table: SensitivityTable | None = None,
    ) -> Attribution:
        """Of the plan."""
        return attribute(
            self.bench,
            self.projection,
            self.candidate,
            (self.candidate, *everyone),
            BUDGET,
            sensitivity_table,
            seconds,
            should_stop,
        )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    chain = NETWORKS["chain"]
    return Scene(Workbench(chain.make(), task_data(chain.input_shape), load_profile("host"), seed=0,
                           folder=tmp_path_factory.mktemp("study"), epochs=1))


@pytest.fixture(scope="module")
def result(scene: Scene) -> Attribution:
    return scene.attribute(sensitivity_table=scene.sensitivity_table)


def _left_out(plan: Plan, share: TechniqueShare) -> Plan:
    if share.technique != ACTIVATIONS:
        return Plan(tuple(step for step in plan.steps if step.technique != share.technique))
    return Plan(tuple(
        Step(s.site, "quantize", {"weight_bits": 4, "activation_bits": 32}) if s.technique == "quantize" else s
        for s in plan.steps))


def test_every_technique_is_there_in_its_order(scene: Scene, result: Attribution) -> None:
    assert [share.technique for share in result.techniques] == ["prune", "sparsify", "quantize", ACTIVATIONS]
    assert [share.sites for share in result.techniques[:2]] == [1, 1]
    assert result.techniques[2].sites == result.techniques[3].sites == len(scene.plan.find("quantize"))
    assert (result.trial, result.plan_fingerprint) == (7, scene.plan.fingerprint) and result.finished


def test_what_is_saved_is_what_the_plan_is_larger_without(scene: Scene, result: Attribution) -> None:
    for share in result.techniques:
        without = scene.projection.estimate(_left_out(scene.plan, share))
        for metric in ("size_bytes", "macs", "peak_memory_bytes"):
            assert result.saved(share, metric) == without[metric] - scene.projection.estimate(scene.plan)[metric]
        if share.technique != ACTIVATIONS:
            alone = Plan(tuple(step for step in scene.plan.steps if step.technique == share.technique))
            assert share.alone == scene.projection.estimate(alone)
    prune, sparse, quantize, activations = result.techniques
    assert (result.saved(quantize, "size_bytes") or 0) > (result.saved(activations, "size_bytes") or 0)
    assert (result.saved(prune, "macs") or 0) > 0 and result.saved(sparse, "macs") == 0
    assert (result.saved(activations, "peak_memory_bytes") or 0) > 0 and activations.alone == {}
    assert result.original == scene.projection.estimate(Plan())


def test_accuracies_are_those_of_the_files(scene: Scene, result: Attribution) -> None:
    measured = [share for share in result.techniques if share.measured]
    assert len(measured) == MEASURED and "quantize" in [share.technique for share in measured]
    assert result.calibrated == scene.candidate.evaluations[0].metrics
    for share in measured:
        file = scene.bench.evaluator.evaluate(_left_out(scene.plan, share), 0).metrics
        assert share.measured["accuracy"] == file["accuracy"] and share.measured["size_bytes"] == file["size_bytes"]
        assert result.cost(share, ACCURACY) == file["accuracy"] - result.calibrated["accuracy"]
        assert result.saved(share, "latency_ms") == share.measured["latency_ms"] - result.calibrated["latency_ms"]
    (other,) = [share for share in result.techniques if not share.measured]
    assert result.cost(other, ACCURACY) is None and result.saved(other, "latency_ms") is None and other.note == ""


def test_each_step_has_its_bytes_and_its_harm(scene: Scene, result: Attribution) -> None:
    assert [(s.technique, s.site) for s in result.steps] == [(s.technique, s.site) for s in scene.plan.steps]
    size = scene.projection.estimate(scene.plan)["size_bytes"]
    for share, step in zip(result.steps, scene.plan.steps, strict=True):
        without = Plan(tuple(other for other in scene.plan.steps if other is not step))
        assert share.saved_bytes == scene.projection.estimate(without)["size_bytes"] - size
        assert share.sensitivity == {"prune": 0.25, "sparsify": None, "quantize": 0.5}[step.technique]
    assert {step.sensitivity for step in scene.attribute(0.0).steps} == {None}, "there is no table without a solver"


def test_without_time_or_when_stopped_it_is_estimated_only(scene: Scene) -> None:
    for result, note in ((scene.attribute(0.0), NO_TIME), (scene.attribute(should_stop=lambda: True), STOPPED)):
        assert not result.finished
        assert [share.note for share in result.techniques].count(note) == MEASURED
        assert all(share.measured == {} and share.without for share in result.techniques)


def test_only_what_fits_is_measured(scene: Scene) -> None:
    """One that takes as long as the plan did, but not the one that multiplies more, nor any after the time is up."""
    slow = msgspec.structs.replace(scene.candidate.evaluations[0], timings={"score": 1000.0})
    scene_of_slow = msgspec.structs.replace(scene.candidate, evaluations=(slow,))
    result = attribute(scene.bench, scene.projection, scene_of_slow, (scene_of_slow,), BUDGET, None, 1010.0,
                       lambda: False)
    notes = {share.technique: share.note for share in result.techniques if share.note}
    assert notes == {"prune": NO_TIME} and not result.finished


def test_what_a_trial_measured_is_not_measured_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = Evaluation(rung=0, metrics={"accuracy": 0.125}, sources={})
    trials = tuple(Candidate(trial=i, status="complete", plan=_left_out(scene.plan, share), evaluations=(earlier,))
                   for i, share in enumerate(scene.attribute(0.0).techniques))
    monkeypatch.setattr(scene.bench.evaluator, "evaluate", None)
    result = scene.attribute(0.0, trials)
    assert result.finished and [share.measured for share in result.techniques].count(earlier.metrics) == MEASURED


def test_a_plan_that_fails_is_shown_as_one(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(plan: Plan, rung: int, seconds: float | None = None, should_stop: object = None) -> Evaluation:
        raise TrialError("nan: the network puts out values that are not finite")

    monkeypatch.setattr(scene.bench.evaluator, "evaluate", fail)
    result = scene.attribute()
    notes = [share.note for share in result.techniques if share.note]
    assert notes == ["cannot be carried out: nan: the network puts out values that are not finite"] * MEASURED
    assert result.finished, "it would fail again"

    def broken(plan: Plan, rung: int, seconds: float | None = None, should_stop: object = None) -> Evaluation:
        raise EnvironmentFault("no space left")

    monkeypatch.setattr(scene.bench.evaluator, "evaluate", broken)
    with pytest.raises(EnvironmentFault):
        scene.attribute()


def test_a_technique_that_others_need_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A device that has no float activations: they cannot be left out."""
    chain, profile = NETWORKS["chain"], load_profile("stm32h743")
    bench = Workbench(chain.make(), task_data(chain.input_shape), profile, seed=0, epochs=1,
                      folder=tmp_path_factory.mktemp("study"))
    projection = Projection(build_space(bench.network.table, load_space("int8"), profile), Budget())
    plan = projection.space.decode(projection.space.uniform())
    candidate = Candidate(trial=0, status="complete", plan=plan, evaluations=(bench.evaluator.evaluate(plan, 0),))
    result = attribute(bench, projection, candidate, [candidate], Budget(), None, math.inf, lambda: False)
    quantize, activations = result.techniques
    assert "cannot be left out" in activations.note and activations.without == {}
    assert result.saved(activations, "size_bytes") is None and quantize.measured


def test_it_can_be_stored(result: Attribution) -> None:
    assert msgspec.json.decode(msgspec.json.encode(result), type=Attribution) == result
