"""Attribution by ablation: what each technique and step of the best plan saves and costs, by leaving it out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from autocompress.core.attribution import Attribution, StepShare, TechniqueShare
from autocompress.core.budget import Budget
from autocompress.core.evaluation import CALIBRATED, Candidate, Metrics
from autocompress.core.plan import Plan, Step
from autocompress.core.sensitivity import Decision, SensitivityTable
from autocompress.errors import AutocompressError, InputError, OutOfTime
from autocompress.search.trial_status import describe_failure, not_finite
from autocompress.space.plan_sensitivity import step_sensitivities
from autocompress.space.projection import Projection
from autocompress.techniques.apply import check_plan
from autocompress.techniques.quantize import QUANTIZE, steps_of

if TYPE_CHECKING:
    from autocompress.study.workbench import Workbench

# The number of techniques that are measured by leaving them out: those that save most.
MEASURED = 3
# Activation bits alone; the share of `quantize` is of weights and activations together.
ACTIVATIONS = "quantize activations"
NO_TIME, STOPPED = "not measured: no time was left", "not measured: the search was stopped"


def attribute(
    bench: Workbench,
    projection: Projection,
    candidate: Candidate,
    everyone: Sequence[Candidate],
    budget: Budget,
    sensitivity_table: SensitivityTable | None,
    seconds: float,
    should_stop: Callable[[], bool],
) -> Attribution:
    """Leave every technique of `candidate`'s plan out once, and every step.

    Estimates are of all; the task's metric is measured for the techniques that buy most of what `budget` bounds, before
    training, as that of trials is. What a trial has measured is not measured again; nothing is begun that would take
    longer than the `seconds` there are.
    """
    assert candidate.plan is not None and candidate.evaluations
    end = time.perf_counter() + seconds
    plan, calibrated = candidate.plan, candidate.evaluations[0]
    original, estimated = projection.estimate(Plan()), projection.estimate(plan)
    shares = {name: _share(projection, plan, name) for name in _techniques(plan, projection.space.techniques)}
    measured_metrics = {c.plan.fingerprint: c.evaluations[0].metrics for c in everyone if c.plan and c.evaluations}
    sensitivities = (
        step_sensitivities(projection.space, plan, sensitivity_table) if sensitivity_table is not None else {}
    )
    steps = _steps(projection, plan, sensitivities)
    for name in _most(shares, estimated, original, budget):
        without = _without(plan, name)
        each = calibrated.seconds * max(1.0, shares[name].without["macs"] / max(1.0, estimated["macs"]))
        if without.fingerprint in measured_metrics:
            measured, note = measured_metrics[without.fingerprint], ""
        elif should_stop():
            measured, note = {}, STOPPED
        elif time.perf_counter() + each > end:
            measured, note = {}, NO_TIME
        else:
            measured, note = _measure(bench, without, should_stop)
        shares[name] = msgspec.structs.replace(shares[name], measured=measured, note=note or shares[name].note)
    return Attribution(
        trial=candidate.trial, plan_fingerprint=plan.fingerprint, original=original, estimated=estimated,
        calibrated=calibrated.metrics, techniques=tuple(shares.values()), steps=steps,
        finished=not any(share.note in (NO_TIME, STOPPED) for share in shares.values()))


def _techniques(plan: Plan, techniques: Iterable[str]) -> list[str]:
    """Return the techniques of a plan in the order of application, then activation bits where it has them."""
    names = [name for name in techniques if plan.find(name)]
    return [*names, ACTIVATIONS] if _sites(plan, ACTIVATIONS) else names


def _sites(plan: Plan, name: str) -> int:
    if name == ACTIVATIONS:
        return sum(step.args["activation_bits"] != 32 for step in steps_of(plan).values())
    return len(plan.find(name))


def _without(plan: Plan, name: str) -> Plan:
    if name == ACTIVATIONS:
        return Plan.of([_float_activations(step) for step in plan.steps])
    return Plan.of([step for step in plan.steps if step.technique != name])


def _float_activations(step: Step) -> Step:
    if step.technique != QUANTIZE.name:
        return step
    weight_args = {key: value for key, value in step.args.items() if key != "range"}
    return msgspec.structs.replace(step, args={**weight_args, "activation_bits": 32})


def _share(projection: Projection, plan: Plan, name: str) -> TechniqueShare:
    share = TechniqueShare(technique=name, sites=_sites(plan, name))
    try:
        share = msgspec.structs.replace(share, without=_estimate(projection, _without(plan, name)))
        if name != ACTIVATIONS:  # float weights have float activations
            alone = Plan.of(list(plan.find(name).values()))
            share = msgspec.structs.replace(share, alone=_estimate(projection, alone))
    except InputError as error:
        return msgspec.structs.replace(share, note=f"cannot be left out or stand alone: {error}")
    return share


def _estimate(projection: Projection, plan: Plan) -> Metrics:
    """InputError for a plan that is not legal: the steps of others may rely on those that it leaves out."""
    check_plan(projection.space.table, plan, projection.space.profile, projection.space.techniques)
    return projection.estimate(plan)


def _most(shares: Mapping[str, TechniqueShare], estimated: Metrics, original: Metrics, budget: Budget) -> list[str]:
    """Techniques that can be left out, those that buy most first: of the original's bounded metrics, else of its size,
    the largest share that the technique saves."""
    bounded = [name for name in budget.bounds if name in estimated] or ["size_bytes"]

    def bought(share: TechniqueShare) -> float:
        return max((share.without[name] - estimated[name]) / max(1e-12, original[name]) for name in bounded)

    legal = [name for name, share in shares.items() if share.without]
    return sorted(legal, key=lambda name: -bought(shares[name]))[:MEASURED]


def _measure(bench: Workbench, plan: Plan, should_stop: Callable[[], bool]) -> tuple[Metrics, str]:
    """Return the metrics of the calibrated file, or why there are none."""
    try:
        evaluation = bench.evaluator.evaluate(plan, CALIBRATED, should_stop=should_stop)
    except AutocompressError:
        raise
    except OutOfTime:
        return {}, NO_TIME
    except Exception as error:  # as in a trial: what one network does not bear is no fault of the search
        return {}, f"cannot be carried out: {describe_failure(error)}"
    reason = not_finite(evaluation)
    return ({}, f"cannot be carried out: {reason}") if reason else (evaluation.metrics, "")


def _steps(projection: Projection, plan: Plan, sensitivities: Mapping[Decision, float | None]) -> tuple[StepShare, ...]:
    """Return the shares of all steps of a plan, in its order."""
    size = projection.estimate(plan)["size_bytes"]

    def saved(step: Step) -> int | None:
        try:
            without = _estimate(projection, Plan.of([other for other in plan.steps if other is not step]))
        except InputError:
            return None
        return round(without["size_bytes"] - size)

    return tuple(StepShare(site=step.site, technique=step.technique, saved_bytes=saved(step),
                           sensitivity=sensitivities.get((step.technique, step.site))) for step in plan.steps)
