"""Schedule of a training: linear warm-up, cosine decay, and an early end on a plateau of the loss.

Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (ICLR 2017), without restarts.
"""

from __future__ import annotations

import math

# Relative fall of the mean loss below which it counts as a plateau.
PLATEAU = 0.01
# Fewest steps over which losses are averaged before they are compared.
LEAST_WINDOW = 50
# Steps over which a training ends after a plateau, as a share of the steps before it.
COOL_DOWN = 0.1


class Schedule:
    """Of at most `total` steps, `warm_up` a share of them.

    When the mean loss over an epoch of `per_epoch` steps (`LEAST_WINDOW` at least) has not fallen for `patience`
    epochs, what is left of the cosine is walked in `COOL_DOWN` of the steps so far: weights at a high learning rate
    are noisy. With a patience of 0 it goes on to the end.
    """

    def __init__(self, total: int, per_epoch: int, warm_up: float, patience: int) -> None:
        self._total, self._warm_up, self._patience = total, warm_up, patience
        self._window = max(per_epoch, LEAST_WINDOW)
        self._losses: list[float] = []
        self._best, self._since = math.inf, 0
        # The step after which the early end began.
        self.plateau: int | None = None

    def done(self, step: int) -> float:
        """Return the share of the training that lies before `step`, counted from 0."""
        if self.plateau is None or step <= self.plateau:
            return step / self._total
        before = self.plateau / self._total
        return before + (1 - before) * (step - self.plateau) / max(1.0, COOL_DOWN * self.plateau)

    def factor(self, done: float) -> float:
        """Return the factor on the learning rate: a linear rise, then half a cosine to zero."""
        if done < self._warm_up:
            return (done + 1e-3) / self._warm_up
        return 0.5 * (1 + math.cos(math.pi * (done - self._warm_up) / (1 - self._warm_up)))

    def see(self, step: int, loss: float) -> None:
        """Record the loss of a step. Losses of the warm-up say nothing, and are left out."""
        if step < self._warm_up * self._total:
            return
        self._losses.append(loss)
        if len(self._losses) < self._window:
            return
        mean = sum(self._losses) / self._window
        self._losses.clear()
        better = mean < self._best * (1 - PLATEAU)
        self._best, self._since = (mean, 0) if better else (self._best, self._since + 1)
        near_its_end = step * (1 + COOL_DOWN) >= self._total
        if self._since >= self._patience > 0 and self.plateau is None and not near_its_end:
            self.plateau = step
