"""Racing: candidates are scored on few validation samples at first, and on more where they compete.

The files of all candidates are scored on the same samples at a rung, and those of a higher rung hold those of a lower
one, so that comparisons are paired. What was scored on a part of the split is corrected by what the original loses or
gains there against all of it (a difference estimator): values of different parts can then be compared.

Source: Cochran, "Sampling Techniques", 3rd ed. (1977), section 7.11; Maron and Moore, "Hoeffding Races" (1993).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import msgspec

from autocompress.core.evaluation import AVERAGED, CALIBRATED, LONG, SHORT, Candidate
from autocompress.core.metric import Metric, Metrics, Reference

log = logging.getLogger(__name__)

# The key, among the metrics of a candidate, of the number of validation samples that they are of, where not all are.
SAMPLES = "validation_samples"
# Splits of so many samples are always scored whole.
SCORED_WHOLE = 5_000
# Samples that the original is scored on first, to know the error of more, and the fewest of a candidate.
LEAST = 1_000
# Standard error, in units of quality (`Reference.scale`), that the first rung asks for.
ERROR = 1 / 300
# How many times those of the first rung the second one has.
GROWTH = 4
# Shares of a time limit that the original may take on the samples of the first rung, and of the last.
FIRST_SHARE, LAST_SHARE = 0.01, 0.05
# Share of a time limit above which scoring both splits whole, as often as the shortest search does, takes too long; the
# fewest samples that then stand for a split; and those on which a sample is timed.
SLOW_SHARE, LEAST_SLOW, TIMED = 0.25, 100, 8
# Times that the validation split is scored (original, candidate, exported file), and the test split (original, file).
VALIDATED, TESTED = 3, 2


class Sizes(msgspec.Struct, frozen=True):
    """How many samples are scored.

    Attributes:
        first: of the validation split, at the first rung.
        last: of the validation split, at the last rung; the original's metrics are of these too.
        test: of the test split, in the end.
    """

    first: int
    last: int
    test: int

    @property
    def by_rung(self) -> dict[int, int]:
        """Samples by rung."""
        return {CALIBRATED: self.first, SHORT: min(self.last, GROWTH * self.first), LONG: self.last,
                AVERAGED: self.last}


def sizes(reference: Reference, error: float, measured: int, seconds: float, samples: int, tested: int,
          limit: float | None) -> Sizes:
    """How many of `samples` of the validation split, and of `tested` of the test split, are scored.

    Args:
        reference: the metric, and the original's value of it on `measured` samples.
        error: the standard error of that.
        measured: samples that it is of.
        seconds: that scoring them took.
        samples: of the validation split.
        tested: of the test split.
        limit: seconds of the search, if any: scoring the original then takes no more than a share of it.
    """
    enough = measured * (error / (ERROR * reference.scale)) ** 2 if math.isfinite(error) else math.inf
    first, last, test = min(float(samples), max(float(LEAST), enough)), float(samples), float(tested)
    if limit is not None:
        a_second = measured / max(seconds, 1e-9)
        first = min(first, max(LEAST, FIRST_SHARE * limit * a_second))
        last = min(last, max(first, LAST_SHARE * limit * a_second))
        test = min(test, max(SCORED_WHOLE, LAST_SHARE * limit * a_second))
    return Sizes(math.ceil(first), math.ceil(last), math.ceil(test))


def slow_sizes(each: float, samples: int, tested: int, limit: float) -> Sizes | None:
    """How many samples of small splits are scored where the network is slow for the time limit; None: all.

    Args:
        each: seconds of scoring one sample.
        samples: of the validation split.
        tested: of the test split.
        limit: seconds of the search.
    """
    if each * (VALIDATED * samples + TESTED * tested) <= SLOW_SHARE * limit:
        return None
    most = max(LEAST_SLOW, math.ceil(LAST_SHARE * limit / each))
    counts = Sizes(min(samples, most), min(samples, most), min(tested, most))
    return None if (counts.last, counts.test) == (samples, tested) else counts


def say(counts: Sizes, samples: int, tested: int) -> None:
    """Log on how many samples candidates are scored."""
    log.info("candidates are scored on %d of %d validation samples at first, trained ones on up to %d, the same for "
             "all%s", counts.first, samples, counts.last, "" if (counts.last, counts.test) == (samples, tested) else
             f"; the exported file on {counts.test} of {tested} test samples: more would take over {LAST_SHARE:.0%} of "
             "the time")


def corrected(metrics: Metrics, original: Metrics, original_at_last: Metrics) -> Metrics:
    """Metrics of a candidate on a part of the split, with what the original's are better or worse on the last.

    Args:
        metrics: of the candidate.
        original: of the original, on the same part.
        original_at_last: of the original, on all that are scored.
    """
    return {name: value if name not in original or name.endswith("_error") or name == SAMPLES
            else value + original_at_last[name] - original[name] for name, value in metrics.items()}


def part_of(metrics: Mapping[str, float]) -> int | None:
    """The number of validation samples that metrics are of; None where they are of all."""
    return int(metrics[SAMPLES]) if SAMPLES in metrics else None


def finalist(candidates: Sequence[Candidate], best: Candidate | None, metric: Metric, last: int) -> Candidate | None:
    """The next candidate to be scored on `last` samples: the best, or one that its standard error does not tell from
    that; None where all of these were."""
    if best is None:
        return None
    least = metric.quality(best.metrics) - best.metrics.get(metric.error, 0.0)
    near = [c for c in candidates if c.status == "complete" and c.duplicate_of is None and c.plan is not None
            and (part_of(c.metrics) or last) < last and metric.quality(c.metrics) >= least]
    return min(near, key=lambda c: (c.trial != best.trial, metric.cost(c.metrics), c.trial), default=None)
