"""What a candidate is called: complete, infeasible with the reason, failed with the fault."""

from __future__ import annotations

import math

import msgspec

from autocompress.core.budget import AT_LEAST, ROUNDING, Budget, shown_excess
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.metric import Reference
from autocompress.errors import TrialError, reason_of


def as_duplicate(candidate: Candidate, twin: Candidate) -> Candidate:
    """A candidate of the same plan as `twin`, with what was found out about that."""
    if not twin.evaluations:
        return msgspec.structs.replace(candidate, status=twin.status, reason=twin.reason)
    return msgspec.structs.replace(candidate, status="duplicate", evaluations=twin.evaluations[:1],
                                   duplicate_of=twin.trial, reason=f"same plan as trial {twin.trial}")


def judge(candidate: Candidate, budget: Budget, reference: Reference) -> Candidate:
    """Complete or infeasible, by the metrics of the rung that counts, with the reason."""
    allowed = budget.most_drop(reference)
    candidate = msgspec.structs.replace(candidate, reference=reference, at_least=budget.at_least,
                                        most_drop=msgspec.UNSET if allowed is None else allowed + ROUNDING)
    if candidate.status in ("failed", "duplicate") or not candidate.metrics:
        return candidate
    excess = {n: v for n, v in budget.excess(candidate.metrics, reference).items() if v > ROUNDING}
    if not excess:
        return msgspec.structs.replace(candidate, status="complete", reason="")
    texts = [f"{name} {'missed' if name.startswith(AT_LEAST) else 'over'} by "
             f"{shown_excess(name, value, reference.metric)}" for name, value in excess.items()]
    return msgspec.structs.replace(candidate, status="infeasible", reason=", ".join(texts))


def judged(everyone: list[Candidate], budget: Budget, reference: Reference) -> list[Candidate]:
    """`judge` for all."""
    return [judge(c, budget, reference) for c in everyone]


def nearest(everyone: list[Candidate], budget: Budget, reference: Reference) -> str:
    """Why nothing is feasible: the nearest candidate and the constraint that blocks it."""
    measured = [c for c in everyone if c.metrics]
    if not measured:
        reasons = sorted({c.reason for c in everyone if c.reason}) or ["no trial was run"]
        return f"no candidate could be evaluated: {reasons[0]}"
    closest = min(measured, key=lambda c: max(0.0, *budget.excess(c.metrics, reference).values()))
    bounds = budget.describe(reference.metric)
    return (f"no candidate meets {bounds}; nearest is trial {closest.trial}: {closest.reason}. "
            "Give it more trials or time, or raise that bound")


def not_finite(evaluation: Evaluation) -> str:
    """Which metric is NaN or infinite, as a reason, or nothing."""
    bad = [name for name, value in evaluation.metrics.items() if not math.isfinite(value)]
    return f"nan: {bad[0]} is not finite" if bad else ""


def describe_failure(error: BaseException) -> str:
    """One line for the table: the kind of fault first."""
    first = reason_of(error)
    if isinstance(error, MemoryError) or "out of memory" in first.lower():
        return f"oom: {first}"
    return first if isinstance(error, TrialError) else f"{type(error).__name__}: {first}"

