"""Backtracking of the learning rate in short trainings: steps under which the loss rises are taken back.

A student that has lost little, or whose batches are small, is first thrown back by steps that serve others well. In a
long training it comes back and further; one of a few dozen steps would end worse than it began.

Source: Armijo, "Minimization of functions having Lipschitz continuous first partial derivatives" (1966), on means of
the loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

# Steps whose mean loss stands for the start, and over which a later mean is taken.
START, WINDOW = 4, 8
# The mean loss, in that of the start, above which steps are taken back, and what later ones have of their length.
RISE, SHORTER = 1.25, 0.25
# Steps of a training from which on it has the time to come back by itself.
LONG = 256


class Backtracking:
    """Takes a short training back to its first weights where its loss has risen, and makes its steps shorter.

    Args:
        parameters: what is trained.
        optimizer: of these; it forgets its moments when steps are taken back.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        self._parameters, self._optimizer = parameters, optimizer
        self._first = [parameter.detach().clone() for parameter in parameters]
        self._start: list[float] = []
        self._losses: list[float] = []
        self.times = 0

    def see(self, loss: float, steps: float) -> float:
        """Record the loss of a step, and take all steps back where it has risen.

        Args:
            loss: of the batch, before its step.
            steps: that the training will have in all, as far as that can be told.

        Returns:
            The factor on the learning rate of the steps to come.
        """
        if len(self._start) < START:
            self._start.append(loss)
            return 1.0
        self._losses.append(loss)
        if len(self._losses) < WINDOW or not self._first:
            return 1.0
        if steps >= LONG:
            self._first = []
            return 1.0
        has_risen = sum(self._losses) / WINDOW > RISE * sum(self._start) / START
        self._losses.clear()
        if not has_risen:
            return 1.0
        with torch.no_grad():
            for parameter, first in zip(self._parameters, self._first, strict=True):
                parameter.copy_(first)
        self._optimizer.state.clear()
        self.times += 1
        return SHORTER
