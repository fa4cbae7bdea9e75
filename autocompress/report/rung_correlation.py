"""Spearman's rank correlation between rungs, and between the predicted sensitivity and each rung."""

from __future__ import annotations

import itertools
import math

import msgspec
import pandas as pd

from autocompress.report.markup import capitalised, text_table
from autocompress.report.text import format_rung
from autocompress.report.view import StudyView

PREDICTED = "predicted"
LEAST_PAIRS = 3
HINT = ("Spearman's rank correlation of the task's metric at both levels, and the number of candidates that have both; "
        "of predictions, least sensitivity first. 1 means that the cheaper level ranks candidates as the dearer one "
        "does.")


class Correlation(msgspec.Struct, frozen=True, kw_only=True):
    """The rank correlation of two levels: `spearman` is from −1 to 1, or None, and then `note` says why."""

    lower: str
    upper: str
    pairs: int
    spearman: float | None = None
    note: str = ""


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Of one study: how many candidates each level has scored, the cheapest first, and each pair of levels."""

    candidates: dict[str, int]
    correlations: tuple[Correlation, ...]


def agreement(view: StudyView) -> Agreement:
    """Return the rank correlations of a study, without repeated plans and scores that are not finite."""
    levels = _scores(view)
    return Agreement(candidates={name: len(scores) for name, scores in levels.items()},
                     correlations=tuple(_correlate(lower, upper, levels[lower], levels[upper])
                                        for lower, upper in itertools.combinations(levels, 2)))


def agreement_heads(ranks: Agreement) -> tuple[str, ...]:
    """Of `agreement_rows`: the levels that something can be compared with stand across."""
    return "level", "candidates", *list(ranks.candidates)[1:]


def agreement_rows(ranks: Agreement) -> list[tuple[str, ...]]:
    """One row a level; in the columns of dearer levels `0.83 (12)`, correlation and pairs, or why there is none."""
    texts = {(c.lower, c.upper): f"{c.note or format(c.spearman, '.2f')} ({c.pairs})" for c in ranks.correlations}
    names = list(ranks.candidates)
    return [(name, str(count), *(texts.get((name, upper), "") for upper in names[1:]))
            for name, count in ranks.candidates.items()]


def agreement_table(view: StudyView) -> str:
    """Return the table of rank correlations as markup."""
    ranks = agreement(view)
    if not ranks.candidates:
        return '<p class="hint">No candidate was scored.</p>'
    rows = [([(row[0], ""), *((cell, "n") for cell in row[1:])], "") for row in agreement_rows(ranks)]
    return text_table([*map(capitalised, agreement_heads(ranks))], rows, numeric=0)


def _scores(view: StudyView) -> dict[str, dict[int, float]]:
    """Level → trial → score, more being better."""
    single = [c for c in view.candidates if c.duplicate_of is None]
    rungs = sorted({e.rung for c in single for e in c.evaluations})
    levels = {PREDICTED: {c.trial: -view.sensitivities[c.trial] for c in single if c.trial in view.sensitivities}}
    levels |= {format_rung(rung): {c.trial: view.metric.quality(e.metrics) for c in single for e in c.evaluations
                                   if e.rung == rung and math.isfinite(view.metric.quality(e.metrics))}
               for rung in rungs}
    return {name: scores for name, scores in levels.items() if scores}


def _correlate(lower: str, upper: str, one: dict[int, float], other: dict[int, float]) -> Correlation:
    frame = pd.DataFrame([(one[trial], other[trial]) for trial in one if trial in other])
    if len(frame) < LEAST_PAIRS:
        return Correlation(lower=lower, upper=upper, pairs=len(frame), note="too few")
    if (frame.nunique() < 2).any():
        return Correlation(lower=lower, upper=upper, pairs=len(frame), note="constant")
    ranks = frame.rank()
    return Correlation(lower=lower, upper=upper, pairs=len(frame), spearman=float(ranks[0].corr(ranks[1])))
