"""Likelihoods that are made of others: of sequences with padding, and of several outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from autocompress.tensors.likelihood import Likelihood
from autocompress.tensors.named import Inputs, by_name


class Masked:
    """Another likelihood of outputs `(N, L, …)` of sequences, whose padding is not compared.

    Args:
        likelihood: of outputs whose second axis is the length.
        mask: name of the input `(N, L)` that is not 0 where there is something.
    """

    def __init__(self, likelihood: Likelihood, mask: str) -> None:
        self.likelihood, self.mask = likelihood, mask

    @property
    def fingerprint(self) -> str:
        """The other one's, and the mask's name."""
        return f"{self.likelihood.fingerprint} masked by {self.mask}"

    @property
    def note(self) -> str:
        """The other one's."""
        return self.likelihood.note

    def canonical(self, outputs: Any) -> Tensor:
        """As the other one's."""
        return self.likelihood.canonical(outputs)

    def compared(self, answers: Tensor, inputs: Inputs) -> Tensor:
        """NaN where the mask is 0."""
        padding = by_name(inputs)[self.mask].to(answers.device) == 0
        return answers.masked_fill(padding.reshape(*padding.shape, *[1] * (answers.dim() - padding.dim())), math.nan)

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Of what is compared alone."""
        there = ~teacher.isnan()
        loss = self.likelihood.distillation_loss(student.where(there, 0), teacher.where(there, 0), temperature)
        return loss * (there.numel() / max(1, int(there.sum())))

    def target_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """As the other one's."""
        return self.likelihood.target_loss(outputs, targets)

    def spread(self, outputs: Tensor) -> float:
        """As the other one's."""
        return self.likelihood.spread(outputs.nan_to_num())

    def divergence(self, outputs: Tensor, original: Tensor) -> float:
        """Of what is compared alone."""
        there = ~original.isnan()
        loss = self.likelihood.divergence(outputs.where(there, 0), original.where(there, 0))
        return loss * (there.numel() / max(1, int(there.sum())))

    def agreement(self, outputs: Tensor, original: Tensor) -> float:
        """Of all."""
        there = ~original.isnan()
        return self.likelihood.agreement(outputs.where(there, 0), original.where(there, 0))

    def drawn_gradient(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """0 where outputs are not compared."""
        there = ~outputs.detach().isnan()
        return self.likelihood.drawn_gradient(outputs.nan_to_num(), generator) * there

    def drawn_loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """As the other one's."""
        return self.likelihood.drawn_loss(outputs.nan_to_num(), generator)


def _rows(values: Tensor) -> Tensor:
    """Values `(N, …)`, or one a sample, as `(N, values)`."""
    return values.flatten(1) if values.dim() > 1 else values[:, None]


class Joint:
    """Independent distributions, one for each output of a network that has several.

    Losses are means over the outputs, which are on one scale: nats, or shares of the original's variance. In canonical
    form all outputs of a sample are one row.

    Args:
        outputs: the original's outputs `(N, …)` for calibration data, by name.
        parts: the likelihood of each, by name; those that are left out are not compared.
        weights: how much an output counts beside the others; left out, 1.
    """

    def __init__(self, outputs: Inputs, parts: Mapping[str, Likelihood],
                 weights: Mapping[str, float] | None = None) -> None:
        self._parts = dict(parts)
        self._shapes = {name: tuple(part.canonical(by_name(outputs)[name][:1]).shape[1:])
                        for name, part in self._parts.items()}
        weights = {name: (weights or {}).get(name, 1.0) for name in self._parts}
        self._weights = {name: weight / sum(weights.values()) for name, weight in weights.items()}

    @property
    def fingerprint(self) -> str:
        """Those of the parts, with their weights."""
        return "; ".join(f"{name} {self._weights[name]:.4g} {part.fingerprint}" for name, part in self._parts.items())

    @property
    def note(self) -> str:
        """What the parts have to say."""
        return "; ".join(f"{name}: {part.note}" for name, part in self._parts.items() if part.note)

    def canonical(self, outputs: Any) -> Tensor:
        """`(N, values)`: all outputs, each in its own canonical form."""
        tensors = by_name(outputs)
        return torch.cat([_rows(part.canonical(tensors[name])) for name, part in self._parts.items()], 1)

    def split(self, answers: Tensor) -> dict[str, Tensor]:
        """The reverse of `canonical`: each output in its own canonical form, by name.

        Args:
            answers: `(N, values)`, in canonical form.
        """
        pieces = torch.split(answers, [prod(shape) for shape in self._shapes.values()], 1)  # type: ignore[no-untyped-call]
        return {name: piece.reshape(len(answers), *self._shapes[name])
                for name, piece in zip(self._shapes, pieces, strict=True)}

    def compared(self, answers: Tensor, inputs: Inputs) -> Tensor:
        """As each part says."""
        return torch.cat([_rows(self._parts[name].compared(piece, inputs))
                          for name, piece in self.split(answers).items()], 1)

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The weighted mean of the parts'."""
        teachers = self.split(teacher)
        losses = [self._weights[name] * self._parts[name].distillation_loss(piece, teachers[name], temperature)
                  for name, piece in self.split(student).items()]
        return torch.stack(losses).sum()

    def target_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Refused: nothing says which targets are of which output.

        Raises:
            NotImplementedError: always; a task that has targets for several outputs overrides it.
        """
        raise NotImplementedError("targets of several outputs need a loss of the task's own")

    def spread(self, outputs: Tensor) -> float:
        """The weighted mean of the parts'."""
        return sum(self._weights[name] * self._parts[name].spread(piece)
                   for name, piece in self.split(outputs).items())

    def divergence(self, outputs: Tensor, original: Tensor) -> float:
        """The weighted mean of the parts'."""
        originals = self.split(original)
        return sum(self._weights[name] * self._parts[name].divergence(piece, originals[name])
                   for name, piece in self.split(outputs).items())

    def agreement(self, outputs: Tensor, original: Tensor) -> float:
        """That of the part that agrees least."""
        originals = self.split(original)
        return min(self._parts[name].agreement(piece, originals[name]) for name, piece in self.split(outputs).items())

    def drawn_gradient(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Those of the parts, in the units of their weighted mean."""
        return torch.cat([
            _rows(math.sqrt(self._weights[name]) * self._parts[name].drawn_gradient(piece, generator))
            for name, piece in self.split(outputs).items()], 1)

    def drawn_loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """The weighted mean of the parts'."""
        return torch.stack([self._weights[name] * self._parts[name].drawn_loss(piece, generator)
                            for name, piece in self.split(outputs).items()]).sum()
