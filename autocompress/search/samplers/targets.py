"""How small and how fast the next proposal is to be: where the front is expected to gain most.

Expected hypervolume improvement (Emmerich et al., "Single- and Multiobjective Evolutionary Optimization Assisted by
Gaussian Random Field Metamodels", IEEE TEC 10(4), 2006), by one draw of the model instead of its integral: what
quality a solution of some size and speed would have follows, in a line of logarithms, from sensitivity, and from how
far trials of about that size and speed were from the line (see `surrogate`). Quality is the task's metric in units of
`Reference.scale`, more being better.
"""

from __future__ import annotations

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

STEP = math.sqrt(0.5)
"""From one share of the size that solutions may have to the next, from all down to the least that can be reached."""
SPEEDS = (1.0, 0.4)
"""Shares of the time of the plain solution of that room, or of its MACs where time is not estimated."""
SETTING = "setting"
"""Attribute of a trial: the knobs of the plan that was measured, where a projection moved what was proposed."""
MOST_LOST = 0.5
"""What a model may lose against the best before it is trained, which wins most of that back, and still count for the
front."""
FULL = 0.25
"""Share of the proposals that use all of the budget, whatever the front: its best model is what is asked for."""
LEAST_TRIALS = 6
"""With fewer there is no line to follow and no posterior, only a prior: any aim is as good as another."""
LEAST_DROP = 5e-3
"""Units of quality, added before the logarithm: smaller differences are noise."""


class SizeLatencyTarget(NamedTuple):
    """Bounds of a proposal and the logarithms of the bytes and the time `(2,)` that it may come to; of the plain
    solution the sensitivities `(knobs,)`, and whether it is inside: where nothing is, solutions are the smallest there
    is."""

    bounds: dict[str, float]
    costs: np.ndarray
    sensitivities: np.ndarray
    reached: bool


class SizeLatencyTargets:
    """Bounds on size and speed under which `solver` can be asked, with the plain solution of each, made when needed.
    `knobs`: those of which the table knows a sensitivity. `reference`: the task's metric and the original's value."""

    def __init__(self, solver: Solver, reference: Reference) -> None:
        self._solver, self._reference = solver, reference
        plain = solver.estimate(solver.space.uniform())
        self.decisions = tuple(solver.sensitivities(solver.space.uniform()))
        reached = math.log(solver.least_bytes / solver.size_bytes) / math.log(STEP)
        self._rooms = tuple(STEP**step for step in range(1 + max(0, math.floor(reached))))
        self._speed = "latency_ms" if "latency_ms" in plain else "macs"
        self._sensitivities: dict[int, np.ndarray] = {}
        self._costs: dict[int, np.ndarray] = {}
        self._known: dict[tuple[float, float], SizeLatencyTarget] = {}

    def solution(self, room: float, speed: float) -> tuple[dict[str, float], dict[KnobKey, Value]]:
        """The bounds of a share of the size, and of the time of the plain solution of that size, beside those of the
        budget; and the plain solution inside them."""
        bounds = {"size_bytes": room * self._solver.size_bytes} if room < 1 else {}
        values = self._solver.plain(bounds.get("size_bytes"))
        if speed < 1:
            bounds[self._speed] = speed * self._solver.estimate(values)[self._speed]
            values = self._solver.propose({}, bounds)
        return bounds, values

    def sensitivities(self, trial: FrozenTrial) -> np.ndarray:
        """Predicted sensitivities `(knobs,)` of a trial's setting."""
        if trial.number not in self._sensitivities:
            self._sensitivities[trial.number] = self._sensitivities_of(setting(trial))
        return self._sensitivities[trial.number]

    def qualities(self, trials: Sequence[FrozenTrial]) -> np.ndarray:
        """The task's metric of each trial `(trials,)`, in units of quality."""
        values = np.array([trial.values[0] for trial in trials])
        return (values if self._reference.metric.higher_is_better else -values) / self._reference.scale

    def weights(self, kinds: Mapping[str, float]) -> np.ndarray:
        """Of the kinds, one for each knob: `(knobs,)`."""
        return np.array([kinds[technique] for technique, _ in self.decisions])

    def draw(self, done: Sequence[FrozenTrial], weights: Mapping[str, float],
             rng: np.random.Generator) -> dict[str, float]:
        """Bounds for the next proposal, beside those of the budget."""
        speed = SPEEDS[int(rng.integers(len(SPEEDS)))]
        if rng.random() < FULL:
            return self._aim(1.0, speed).bounds
        if len(done) < LEAST_TRIALS:
            return self._aim(self._rooms[int(rng.integers(len(self._rooms)))], speed).bounds
        aims = [aim for aim in (self._aim(room, share) for room in self._rooms for share in SPEEDS) if aim.reached]
        if not aims:
            return self._aim(1.0, speed).bounds
        kinds = self.weights(weights)
        measured = self.qualities(done)
        known, asked = np.array([self._costs_of(t) for t in done]), np.array([aim.costs for aim in aims])
        sensitivities, plain = (np.log(np.array(rows) @ kinds + 1e-12)
                        for rows in ([self.sensitivities(t) for t in done], [aim.sensitivities for aim in aims]))
        nearest = np.square(known[:, None] - asked).sum(2).argmin(1)
        expected = _qualities(sensitivities, plain[nearest], known, measured, plain, asked, rng)
        won = hypervolume_contribution(
            np.column_stack([1 - measured, known]), np.column_stack([1 - expected, asked]), rng, MOST_LOST
        )
        return aims[int(won.argmax())].bounds

    def _aim(self, room: float, speed: float) -> SizeLatencyTarget:
        if (room, speed) not in self._known:
            bounds, values = self.solution(room, speed)
            logs = self._logs(values)
            most = np.log([room * self._solver.size_bytes, bounds.get(self._speed, math.inf)])
            self._known[room, speed] = SizeLatencyTarget(
                bounds,
                np.where(np.isfinite(most), most, logs),
                self._sensitivities_of(values),
                bool((logs <= most + 1e-9).all()),
            )
        return self._known[room, speed]

    def _sensitivities_of(self, values: Mapping[KnobKey, Value]) -> np.ndarray:
        found = self._solver.sensitivities(values)
        return np.array([found[decision] for decision in self.decisions])

    def _costs_of(self, trial: FrozenTrial) -> np.ndarray:
        if trial.number not in self._costs:
            self._costs[trial.number] = self._logs(setting(trial))
        return self._costs[trial.number]

    def _logs(self, values: Mapping[KnobKey, Value]) -> np.ndarray:
        metrics = self._solver.estimate(values)
        return np.log([metrics["size_bytes"], metrics[self._speed]])


def setting(trial: FrozenTrial) -> dict[KnobKey, Value]:
    """The knobs of what a trial measured."""
    return from_stored({**trial.params, **trial.user_attrs.get(SETTING, {})})


def log_lost(qualities: np.ndarray) -> np.ndarray:
    """Logarithms of what each loses against the best."""
    logarithms: np.ndarray = np.log(qualities.max() - qualities + LEAST_DROP)
    return logarithms


def _qualities(sensitivities: np.ndarray, plain: np.ndarray, known: np.ndarray, measured: np.ndarray,
               asked_plain: np.ndarray, asked: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The qualities that proposals of costs `asked` `(A, 2)` may have, in one draw: a line in logarithms of sensitivity
    through the trials, and how far trials of about such costs were off it, at the sensitivity of the `plain` solution
    of their size and speed: what is proposed there has more, and the trials tell what that does."""
    top, lost = measured.max(), log_lost(measured)
    slope, _ = rising_line(sensitivities, lost)
    off = lost - slope * plain
    line = off.mean() + slope * asked_plain
    qualities: np.ndarray = top + LEAST_DROP - np.exp(line + sample_gp(known, off - off.mean(), asked, rng))
    return qualities
