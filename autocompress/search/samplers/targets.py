"""Expected hypervolume improvement: size and latency of the next proposal, where the front is expected to gain most.

One draw of the model stands for its integral. The logarithm of the loss of quality at a size and latency is linear in
the logarithm of the predicted sensitivity, plus a Gaussian process over size and latency, fitted to the residuals of
the trials (see `surrogate`). Quality is the task's metric in units of `Reference.scale`, higher being better.

Source: Emmerich et al., "Single- and Multiobjective Evolutionary Optimization Assisted by Gaussian Random Field
Metamodels" (IEEE TEC 10(4), 2006).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from optuna.trial import FrozenTrial

from autocompress.core.hypervolume import hypervolume_contribution
from autocompress.core.metric import Reference
from autocompress.search.samplers.surrogate import rising_line, sample_gp
from autocompress.space.solver.solver import Solver
from autocompress.space.space import KnobKey, Value
from autocompress.techniques.knobs import from_stored

# The ratio of successive size fractions, which go from the whole size bound down to the least size of the space.
SIZE_STEP = math.sqrt(0.5)
# Bounds on latency, as fractions of that of the plain solution of the same size; on MACs where no latency is estimated.
LATENCY_FRACTIONS = (1.0, 0.4)
# The attribute of a trial that holds the setting of the measured plan, where projection moved the proposed one.
SETTING = "setting"
# The largest share of the best trial's quality that an untrained candidate may lose and count for the front, because
# training recovers most of it.
MOST_LOST = 0.5
# The share of proposals that use the whole budget, because the best model inside it is what the user wants; to it comes
# the quality that the best trial has lost against the original.
FULL_BUDGET_SHARE = 0.25
# The least number of completed trials for a posterior; with fewer, targets are drawn from the prior, uniformly.
LEAST_TRIALS = 6
# The quality that is added to losses before the logarithm: smaller differences are noise.
LEAST_DROP = 5e-3


class SizeLatencyTarget(NamedTuple):
    """A size and a latency that a proposal may be given as bounds, with the plain solution inside them.

    Attributes:
        bounds: bounds beside the budget, by metric.
        costs: logarithms of bytes and latency, `(2,)`, that a proposal with these bounds may have.
        sensitivities: sensitivities of the plain solution by decision, in nats, `(decisions,)`.
        feasible: whether the plain solution meets the bounds; where none does, solutions are the smallest ones.
    """

    bounds: dict[str, float]
    costs: np.ndarray
    sensitivities: np.ndarray
    feasible: bool


class SizeLatencyTargets:
    """The grid of size and latency targets of a solver; the plain solution of each is computed when it is first needed.

    Args:
        solver: solves the space for bounds.
        reference: the task's metric and the original's value of it.

    Attributes:
        decisions: decisions with a predicted sensitivity, in the order of all arrays `(decisions,)`.
    """

    def __init__(self, solver: Solver, reference: Reference) -> None:
        self._solver, self._reference = solver, reference
        plain = solver.estimate(solver.space.uniform())
        self.decisions = tuple(solver.sensitivities(solver.space.uniform()))
        fewest_steps = math.log(solver.least_bytes / solver.size_bytes) / math.log(SIZE_STEP)
        self._size_fractions = tuple(SIZE_STEP**step for step in range(1 + max(0, math.floor(fewest_steps))))
        self._latency_metric = "latency_ms" if "latency_ms" in plain else "macs"
        self._sensitivities_by_trial: dict[int, np.ndarray] = {}
        self._costs_by_trial: dict[int, np.ndarray] = {}
        self._targets: dict[tuple[float, float], SizeLatencyTarget] = {}

    def solution(self, size_fraction: float, latency_fraction: float) -> tuple[dict[str, float], dict[KnobKey, Value]]:
        """Return the bounds of one target, and the plain solution inside them.

        Args:
            size_fraction: fraction of the size bound.
            latency_fraction: fraction of the latency of the plain solution of that size.
        """
        bounds = {"size_bytes": size_fraction * self._solver.size_bytes} if size_fraction < 1 else {}
        values = self._solver.plain(bounds.get("size_bytes"))
        if latency_fraction < 1:
            bounds[self._latency_metric] = latency_fraction * self._solver.estimate(values)[self._latency_metric]
            values = self._solver.propose({}, bounds)
        return bounds, values

    def sensitivities(self, trial: FrozenTrial) -> np.ndarray:
        """Return the predicted sensitivities `(decisions,)` of a trial's setting, in nats."""
        if trial.number not in self._sensitivities_by_trial:
            self._sensitivities_by_trial[trial.number] = self._sensitivities_of(setting(trial))
        return self._sensitivities_by_trial[trial.number]

    def qualities(self, trials: Sequence[FrozenTrial]) -> np.ndarray:
        """Return the quality of each trial, `(trials,)`."""
        values = np.array([trial.values[0] for trial in trials])
        return (values if self._reference.metric.higher_is_better else -values) / self._reference.scale

    def weights(self, by_technique: Mapping[str, float]) -> np.ndarray:
        """Return the weight of each decision's technique, `(decisions,)`."""
        return np.array([by_technique[technique] for technique, _ in self.decisions])

    def draw(self, completed: Sequence[FrozenTrial], weights: Mapping[str, float],
             rng: np.random.Generator) -> dict[str, float]:
        """Draw the target of the next proposal: the largest contribution to the hypervolume in one draw of the model.

        Args:
            completed: completed trials.
            weights: factors of predicted sensitivities, by technique.
            rng: source of all draws.

        Returns:
            Bounds beside the budget, by metric.
        """
        latency_fraction = LATENCY_FRACTIONS[int(rng.integers(len(LATENCY_FRACTIONS)))]
        lost = self._least_lost(completed)
        share = rng.random()
        if share < FULL_BUDGET_SHARE + lost:
            return self._target(1.0, latency_fraction if share < FULL_BUDGET_SHARE else 1.0).bounds
        if len(completed) < LEAST_TRIALS:
            size_fraction = self._size_fractions[int(rng.integers(len(self._size_fractions)))]
            return self._target(size_fraction, latency_fraction).bounds
        grid = itertools.product(self._size_fractions, LATENCY_FRACTIONS)
        targets = [target for target in itertools.starmap(self._target, grid) if target.feasible]
        if not targets:
            return self._target(1.0, latency_fraction).bounds
        decision_weights = self.weights(weights)
        measured_qualities = self.qualities(completed)
        trial_costs = np.array([self._costs_of(trial) for trial in completed])
        target_costs = np.array([target.costs for target in targets])
        trial_sensitivities, target_sensitivities = (
            np.log(np.array(rows) @ decision_weights + 1e-12)
            for rows in ([self.sensitivities(trial) for trial in completed],
                         [target.sensitivities for target in targets])
        )
        nearest = np.square(trial_costs[:, None] - target_costs).sum(2).argmin(1)
        expected_qualities = _qualities(trial_sensitivities, target_sensitivities[nearest], trial_costs,
                                        measured_qualities, target_sensitivities, target_costs, rng)
        contributions = hypervolume_contribution(
            np.column_stack([1 - measured_qualities, trial_costs]),
            np.column_stack([1 - expected_qualities, target_costs]), rng, MOST_LOST * (1 - lost)
        )
        return targets[int(contributions.argmax())].bounds

    def _least_lost(self, completed: Sequence[FrozenTrial]) -> float:
        """Return the quality that the best trial has lost against the original, 0 to `MOST_LOST`; 0 without trials."""
        if not completed:
            return 0.0
        values = self.qualities(completed)
        sign = 1 if self._reference.metric.higher_is_better else -1
        original = sign * self._reference.value / self._reference.scale
        return float(np.clip(original - values.max(), 0.0, MOST_LOST))

    def _target(self, size_fraction: float, latency_fraction: float) -> SizeLatencyTarget:
        if (size_fraction, latency_fraction) not in self._targets:
            bounds, values = self.solution(size_fraction, latency_fraction)
            log_costs = self._log_costs(values)
            limits = np.log([size_fraction * self._solver.size_bytes, bounds.get(self._latency_metric, math.inf)])
            self._targets[size_fraction, latency_fraction] = SizeLatencyTarget(
                bounds,
                np.where(np.isfinite(limits), limits, log_costs),
                self._sensitivities_of(values),
                bool((log_costs <= limits + 1e-9).all()),
            )
        return self._targets[size_fraction, latency_fraction]

    def _sensitivities_of(self, values: Mapping[KnobKey, Value]) -> np.ndarray:
        by_decision = self._solver.sensitivities(values)
        return np.array([by_decision[decision] for decision in self.decisions])

    def _costs_of(self, trial: FrozenTrial) -> np.ndarray:
        if trial.number not in self._costs_by_trial:
            self._costs_by_trial[trial.number] = self._log_costs(setting(trial))
        return self._costs_by_trial[trial.number]

    def _log_costs(self, values: Mapping[KnobKey, Value]) -> np.ndarray:
        metrics = self._solver.estimate(values)
        return np.log([metrics["size_bytes"], metrics[self._latency_metric]])


def setting(trial: FrozenTrial) -> dict[KnobKey, Value]:
    """Return the setting that a trial measured."""
    return from_stored({**trial.params, **trial.user_attrs.get(SETTING, {})})


def log_lost(qualities: np.ndarray) -> np.ndarray:
    """Return the logarithms of the losses of quality against the best, `(trials,)`."""
    log_losses: np.ndarray = np.log(qualities.max() - qualities + LEAST_DROP)
    return log_losses


def _qualities(sensitivities: np.ndarray, plain: np.ndarray, trial_costs: np.ndarray, measured: np.ndarray,
               target_sensitivities: np.ndarray, target_costs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the qualities `(targets,)` of proposals at the targets: a regression line plus a Gaussian process.

    Residuals are taken at the sensitivity of the plain solution of each trial's size and latency. Proposals have more
    sensitivity than that solution, and so the residuals hold what that costs.

    Args:
        sensitivities: logarithms of the trials' sensitivities, `(trials,)`.
        plain: logarithms of the sensitivities of the plain solutions nearest in costs to the trials, `(trials,)`.
        trial_costs: logarithms of the trials' bytes and latencies, `(trials, 2)`.
        measured: qualities of the trials, `(trials,)`.
        target_sensitivities: logarithms of the sensitivities of the targets' plain solutions, `(targets,)`.
        target_costs: logarithms of the targets' bytes and latencies, `(targets, 2)`.
        rng: source of the draw.
    """
    best, log_losses = measured.max(), log_lost(measured)
    slope, _ = rising_line(sensitivities, log_losses)
    residuals = log_losses - slope * plain
    line = residuals.mean() + slope * target_sensitivities
    off_line = sample_gp(trial_costs, residuals - residuals.mean(), target_costs, rng)
    qualities: np.ndarray = best + LEAST_DROP - np.exp(line + off_line)
    return qualities
