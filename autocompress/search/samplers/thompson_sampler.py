"""A sampler that proposes what a solver finds best, and learns what the solver's table does not know.

The table predicts sensitivities one by one and before training; their sum misses how they add up. So each proposal is
the solution under weights drawn from what the trials so far leave likely (Thompson, "On the Likelihood that One Unknown
Probability Exceeds Another", Biometrika 25, 1933), of the kinds and, around those, of single knobs (see `surrogate`).
How small and how fast a proposal is to be follows from the volume that it is expected to add to the front (see `aims`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from autocompress.core.metric import Reference
from autocompress.core.sensitivity import Decision
from autocompress.search.samplers.surrogate import draw_weights
from autocompress.search.samplers.targets import LEAST_TRIALS, SizeLatencyTargets, log_lost, setting
from autocompress.space.solver.solver import Solver
from autocompress.space.space import KnobKey, Space, Value
from autocompress.techniques.knobs import stored, stored_name

EXPLORE = 0.2
"""Share of proposals that cross two good trials and redraw some knobs, whatever the table says."""
REDRAWN = 0.1
"""Share of knobs that such a proposal redraws, and any other of those that the solver leaves as they are."""
SPREAD = 0.5
"""Standard deviation of the logarithm of a knob's own weight, before anything is measured."""
SCALES = tuple(4.0**step for step in (-2, -1, 0, 1, 2))
"""Weights of channels and of factors, relative to that of bits, between which the posterior decides."""
MOST_TOLD = 400
"""Trials that a proposal is learnt from."""
FIRST = ((1.0, 1.0), (0.0625, 1.0), (0.25, 1.0), (0.0625, 0.4), (1.0, 0.4), (0.5, 1.0), (0.25, 0.4), (0.125, 1.0))
"""Shares of the budget that the first solutions may use, and of the time of the plain solution of that size."""


class SolverSampler(optuna.samplers.BaseSampler):
    """For studies of the space that `solver` solves, whose first value is the metric of `reference`. Seeded."""

    def __init__(self, solver: Solver, seed: int, reference: Reference) -> None:
        self._solver, self._seed, self._rng = solver, seed, np.random.default_rng(seed)
        self._search_space = distributions(solver.space)
        self._aims = SizeLatencyTargets(solver, reference)
        self._sign = -1 if reference.metric.higher_is_better else 1

    def solutions(self) -> list[dict[KnobKey, Value]]:
        """What to try first, the most telling before: the plain solution, smaller ones and faster ones, so that there
        is a front from the start."""
        return [self._aims.solution(room, speed)[1] for room, speed in FIRST]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All knobs: proposals are whole plans."""
        return self._search_space

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial,
                        search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """The next proposal: a solution under drawn weights, or a crossing of good trials. What is drawn follows from
        the seed, the trial's number and the trials before it, so that a search that was stopped goes on as it would
        have."""
        self._rng = np.random.default_rng([self._seed, trial.number])
        done = [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
                if t.params.keys() >= search_space.keys()]
        done = telling(done, self._sign)
        weights = self._of_techniques(done)
        bounds = self._aims.draw(done, weights, self._rng)
        if len(done) >= 2 and self._rng.random() < EXPLORE:
            values = self._solver.fit(self._crossed(done), bounds)
        else:
            drawn: dict[str | Decision, float] = dict(weights.items())
            drawn |= dict(self._of_decisions(done, weights).items())
            values = self._solver.propose(drawn, bounds, self._others())
        by_name = stored(values)
        return {name: by_name[name] for name in search_space}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        """A knob that is not of the space: at random."""
        return optuna.samplers.RandomSampler(int(self._rng.integers(2**31))).sample_independent(
            study, trial, param_name, param_distribution)

    def _of_decisions(self, done: Sequence[FrozenTrial], of_techniques: dict[str, float]) -> dict[Decision, float]:
        """A weight for each decision too, drawn around one."""
        decisions = self._aims.decisions
        if len(done) >= LEAST_TRIALS:
            sensitivities = np.array([self._aims.sensitivities(t) for t in done]) * self._aims.weights(of_techniques)
            logs = draw_weights(sensitivities, log_lost(self._aims.qualities(done)), SPREAD, self._rng)
        else:
            logs = self._rng.normal(0.0, SPREAD, len(decisions))
        return dict(zip(decisions, np.exp(logs).tolist(), strict=True))

    def _others(self) -> dict[KnobKey, Value]:
        """A few of the knobs that no table knows, drawn."""
        solved = self._solver.space.solved_kinds
        return {knob.key: self._drawn(self._search_space[stored_name(knob.key)]) for knob in self._solver.space.knobs
                if knob.kind not in solved and not knob.unit and self._rng.random() < REDRAWN}

    def _of_techniques(self, done: Sequence[FrozenTrial]) -> dict[str, float]:
        """A weight for each technique, drawn, relative to the one that sets widths: weights of `SCALES` are as likely
        as the logarithm of the lost quality follows, in a line, from the logarithm of the sensitivity that they
        predict."""
        first, reference, *others = self._solver.techniques
        drawn = np.array(list(itertools.product(SCALES, repeat=1 + len(others))))
        likelihood = -0.5 * np.square(np.log(drawn) / np.log(4.0)).sum(1)  # prior: factors of four are one deviation
        if len(done) >= LEAST_TRIALS:
            names = self._solver.techniques
            shares = np.array([self._aims.weights({other: float(other == name) for other in names}) for name in names])
            sensitivities = np.array([self._aims.sensitivities(t) for t in done]) @ shares.T
            lost = log_lost(self._aims.qualities(done))
            for i, (of_first, *of_others) in enumerate(drawn):
                sensitivity = np.log(sensitivities @ (of_first, 1.0, *of_others) + 1e-12)
                likelihood[i] -= 0.5 * len(done) * np.log(_unexplained(sensitivity, lost) + 1e-3)
        chances = np.exp(likelihood - likelihood.max())
        of_first, *of_others = drawn[self._rng.choice(len(drawn), p=chances / chances.sum())].tolist()
        return {first: of_first, reference: 1.0, **dict(zip(others, of_others, strict=True))}

    def _crossed(self, done: Sequence[FrozenTrial]) -> dict[KnobKey, Value]:
        best = sorted(done, key=lambda t: (self._sign * t.values[0], t.number))[:max(2, len(done) // 3)]
        first, second = (setting(best[int(i)]) for i in self._rng.choice(len(best), 2, replace=False))
        values: dict[KnobKey, Value] = {}
        for knob in self._solver.space.knobs:
            values[knob.key] = (first if self._rng.random() < 0.5 else second)[knob.key]
            if self._rng.random() < REDRAWN:
                values[knob.key] = self._drawn(self._search_space[stored_name(knob.key)])
        return values

    def _drawn(self, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[int(self._rng.integers(len(distribution.choices)))]
        assert isinstance(distribution, FloatDistribution)
        return float(self._rng.uniform(distribution.low, distribution.high))


def telling(done: list[FrozenTrial], sign: int = -1) -> list[FrozenTrial]:
    """At most `MOST_TOLD` of the trials, in order: those of the least first value (times `sign`) and the latest. The
    cost of a proposal must not grow with the study."""
    if len(done) <= MOST_TOLD:
        return done
    best = sorted(done[:-MOST_TOLD // 2], key=lambda t: (sign * t.values[0], t.number))[:MOST_TOLD // 2]
    return [*sorted(best, key=lambda t: t.number), *done[-MOST_TOLD // 2:]]


def _unexplained(x: np.ndarray, y: np.ndarray) -> float:
    """Share of the variance of `y` that a rising line in `x` leaves; 1 where none rises."""
    if x.std() < 1e-12 or y.std() < 1e-12:
        return 1.0
    correlation = float(np.corrcoef(x, y)[0, 1])
    return 1 - max(correlation, 0.0) ** 2


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The knobs of a space as Optuna knows them."""
    return {stored_name(knob.key): CategoricalDistribution(list(knob.choices)) if knob.choices
            else FloatDistribution(knob.low, knob.high) for knob in space.knobs}
