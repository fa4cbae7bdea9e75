"""Thompson sampling: each proposal is the solver's solution under one draw of the weights of sensitivities.

The sensitivity table predicts decisions one by one and before training, and the sum of its entries misses how they
interact. So weights of techniques, and of single decisions around those, are drawn from their posterior given the
trials so far (Thompson, "On the Likelihood that One Unknown Probability Exceeds Another", Biometrika 25, 1933; see
`surrogate`). Size and latency of a proposal follow from its expected contribution to the hypervolume (see `targets`).
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
from autocompress.techniques.knobs import ACTIVATION_BITS, Knob, stored, stored_name

# The share of proposals that are a crossover of two good trials with some knobs redrawn.
EXPLORE = 0.2
# The share of knobs that a crossover redraws, and that other proposals redraw of the knobs that no solver decides.
REDRAWN = 0.1
# The standard deviation of the prior of the logarithm of a decision's weight.
SPREAD = 0.5
# The grid of weights of the other techniques, relative to that of quantization, of the posterior.
SCALES = tuple(4.0**step for step in (-2, -1, 0, 1, 2))
# The largest number of trials that a proposal is learnt from.
MOST_TRIALS_READ = 400
# Size and latency fractions of the first solutions (see `targets`): the best model inside the budget matters more than
# the far end of the front, which proposals reach when trials tell how much is lost on the way there.
FIRST_TARGETS = ((1.0, 1.0), (0.5, 1.0), (0.25, 1.0), (1.0, 0.4), (0.0625, 1.0))


class SolverSampler(optuna.samplers.BaseSampler):
    """Optuna sampler by Thompson sampling, for a study whose first objective is the task's metric.

    Args:
        solver: solves the space of the study.
        seed: seed of all draws.
        reference: the task's metric and the original's value of it.
    """

    def __init__(self, solver: Solver, seed: int, reference: Reference) -> None:
        self._solver, self._seed, self._rng = solver, seed, np.random.default_rng(seed)
        self._search_space = distributions(solver.space)
        self._targets = SizeLatencyTargets(solver, reference)
        self._sign = -1 if reference.metric.higher_is_better else 1

    def solutions(self) -> list[dict[KnobKey, Value]]:
        """Return the first settings, the most useful before: the plain solution, and smaller and faster ones, so that
        there is a front from the start. Where activations may have 8 bits or be float, the second is the plain one with
        float activations: where 8 bits are faster they are what is solved for, and may cost more than anything else."""
        plain, *others = [self._targets.solution(size_fraction, latency_fraction)[1]
                          for size_fraction, latency_fraction in FIRST_TARGETS]
        in_float = {knob.key: max(knob.choices) for knob in self._activations if max(knob.choices) != knob.plain}
        return [plain, *([self._solver.solve({}, {}, in_float)] if in_float else []), *others]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the distributions of all knobs, because a proposal is a whole setting."""
        return self._search_space

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial,
                        search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Return the next proposal: a solution under drawn weights, or a crossover of good trials.

        Draws follow from the seed, the trial's number and the trials before it, so that a resumed search proposes what
        an uninterrupted one would have."""
        self._rng = np.random.default_rng([self._seed, trial.number])
        completed = [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
                if t.params.keys() >= search_space.keys()]
        completed = informative_trials(completed, self._sign)
        weights = self._technique_weights(completed)
        bounds = self._targets.draw(completed, weights, self._rng)
        if len(completed) >= 2 and self._rng.random() < EXPLORE:
            values = self._solver.fit(self._crossover(completed), bounds)
        else:
            drawn: dict[str | Decision, float] = dict(weights.items())
            drawn |= dict(self._decision_weights(completed, weights).items())
            values = self._solver.propose(drawn, bounds, self._redrawn_knobs() | self._best_activations(completed))
        by_name = stored(values)
        return {name: by_name[name] for name in search_space}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        """Draw a knob that is not of the space at random."""
        return optuna.samplers.RandomSampler(int(self._rng.integers(2**31))).sample_independent(
            study, trial, param_name, param_distribution)

    def _decision_weights(
        self, completed: Sequence[FrozenTrial], technique_weights: dict[str, float]
    ) -> dict[Decision, float]:
        """Draw a weight for each decision, around 1, from the posterior."""
        decisions = self._targets.decisions
        if len(completed) >= LEAST_TRIALS:
            sensitivities = np.array([self._targets.sensitivities(t) for t in completed])
            sensitivities = sensitivities * self._targets.weights(technique_weights)
            logs = draw_weights(sensitivities, log_lost(self._targets.qualities(completed)), SPREAD, self._rng)
        else:
            logs = self._rng.normal(0.0, SPREAD, len(decisions))
        return dict(zip(decisions, np.exp(logs).tolist(), strict=True))

    def _redrawn_knobs(self) -> dict[KnobKey, Value]:
        """Draw values of a few of the knobs that the solver does not decide."""
        solved = self._solver.space.solved_kinds
        return {knob.key: self._drawn(self._search_space[stored_name(knob.key)]) for knob in self._solver.space.knobs
                if knob.kind not in solved and not knob.unit and self._rng.random() < REDRAWN}

    @property
    def _activations(self) -> list[Knob]:
        """The knobs of the widths of activations."""
        return [knob for knob in self._solver.space.knobs if knob.unit == ACTIVATION_BITS]

    def _best_activations(self, completed: Sequence[FrozenTrial]) -> dict[KnobKey, Value]:
        """Return the widths of activations of the best trial for every second proposal; the others have the plain
        ones."""
        knobs = self._activations
        if not knobs or not completed or self._rng.random() < 0.5:
            return {}
        best = setting(min(completed, key=lambda t: (self._sign * t.values[0], t.number)))
        return {knob.key: best[knob.key] for knob in knobs}

    def _technique_weights(self, completed: Sequence[FrozenTrial]) -> dict[str, float]:
        """Draw a weight for each technique, relative to the one that sets widths, from the posterior on a grid.

        The likelihood of weights is that of a regression line of the logarithm of the lost quality on the logarithm of
        the weighted sensitivity."""
        first, reference, *others = self._solver.techniques
        grid = np.array(list(itertools.product(SCALES, repeat=1 + len(others))))
        likelihood = -0.5 * np.square(np.log(grid) / np.log(4.0)).sum(1)  # prior: factors of four are one deviation
        if len(completed) >= LEAST_TRIALS:
            names = self._solver.techniques
            shares = np.array([self._targets.weights({other: float(other == name) for other in names})
                               for name in names])
            sensitivities = np.array([self._targets.sensitivities(t) for t in completed]) @ shares.T
            log_losses = log_lost(self._targets.qualities(completed))
            for i, (first_weight, *other_weights) in enumerate(grid):
                sensitivity = np.log(sensitivities @ (first_weight, 1.0, *other_weights) + 1e-12)
                likelihood[i] -= 0.5 * len(completed) * np.log(_unexplained(sensitivity, log_losses) + 1e-3)
        probabilities = np.exp(likelihood - likelihood.max())
        first_weight, *other_weights = grid[self._rng.choice(len(grid), p=probabilities / probabilities.sum())].tolist()
        return {first: first_weight, reference: 1.0, **dict(zip(others, other_weights, strict=True))}

    def _crossover(self, completed: Sequence[FrozenTrial]) -> dict[KnobKey, Value]:
        """Return a uniform crossover of two of the best third of the trials, with some knobs redrawn."""
        best = sorted(completed, key=lambda t: (self._sign * t.values[0], t.number))[:max(2, len(completed) // 3)]
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


def informative_trials(completed: list[FrozenTrial], sign: int = -1) -> list[FrozenTrial]:
    """Return the best and the latest trials in order, at most `MOST_TRIALS_READ`: a proposal's cost must not grow with
    the study.

    Args:
        completed: completed trials, in order.
        sign: factor of the first value, of which less is better.
    """
    if len(completed) <= MOST_TRIALS_READ:
        return completed
    best = sorted(completed[:-MOST_TRIALS_READ // 2], key=lambda t: (sign * t.values[0], t.number))
    best = best[:MOST_TRIALS_READ // 2]
    return [*sorted(best, key=lambda t: t.number), *completed[-MOST_TRIALS_READ // 2:]]


def _unexplained(x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of the variance of `y` that a rising line in `x` leaves unexplained; 1 where no line rises."""
    if x.std() < 1e-12 or y.std() < 1e-12:
        return 1.0
    correlation = float(np.corrcoef(x, y)[0, 1])
    return 1 - max(correlation, 0.0) ** 2


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the knobs of a space as Optuna's distributions, by stored name."""
    return {stored_name(knob.key): CategoricalDistribution(list(knob.choices)) if knob.choices
            else FloatDistribution(knob.low, knob.high) for knob in space.knobs}
