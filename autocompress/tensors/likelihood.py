"""What the outputs of a network say about its targets: the distributions that training and sensitivities rest on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from math import prod
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from autocompress.tensors.named import Inputs, by_name, the_tensor

# At which class scores are softened where networks are compared: one that is sure of everything would hide what
# differs.
TEMPERATURE = 4.0
# Variance over mean square below which a number is a constant.
CONSTANT = 1e-10


class Likelihood(Protocol):
    """The distribution of targets that the outputs of a network stand for.

    `canonical` requires outputs `(N, …)` as the network puts them out, of any number of samples; all other methods
    require what `canonical` made of them. Losses are means over samples, and over the positions of maps and sequences,
    differentiable in the student, and 0 where both networks put out the same. An implementation holds plain values and
    tensors alone, so that it can be pickled.
    """

    @property
    def fingerprint(self) -> str:
        """Text that differs where the same outputs would give another gradient or loss."""

    @property
    def note(self) -> str:
        """A sentence for the user about how outputs are read; empty where there is nothing to say."""

    def canonical(self, outputs: Any) -> Tensor:
        """Outputs `(N, …)`, several of them as `NamedTensors`, as the other methods take them: one tensor, float32, the
        samples first; differentiable."""

    def compared(self, answers: Tensor, inputs: Inputs) -> Tensor:
        """A teacher's answers, in canonical form, to `inputs`, with NaN where students are not compared with them, such
        as behind the end of a text."""

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """How far the student's outputs are from the teacher's."""

    def target_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How far outputs are from the data's own targets `(N, …)`."""

    def spread(self, outputs: Tensor) -> float:
        """About the distillation loss of a student that knows nothing, against these outputs."""

    def divergence(self, outputs: Tensor, original: Tensor) -> float:
        """Mean divergence from the original's outputs: nats, or squared error over the original's variance."""

    def agreement(self, outputs: Tensor, original: Tensor) -> float:
        """How alike two sets of outputs are, 1 for the same."""

    def drawn_gradient(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """The gradient, with respect to the outputs, of the logarithm of the likelihood of targets that are drawn from
        it: what the Fisher information is the second moment of."""

    def drawn_loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """The mean negative logarithm of the likelihood of targets that are drawn from it, but for constants."""


class _Everything:
    """Compares students with all of a teacher's answers."""

    def compared(self, answers: Tensor, inputs: Inputs) -> Tensor:
        """The answers as they are."""
        return answers


class Categorical(_Everything):
    """One of several classes for each sample, or for each position of it, from scores `(N, classes, …)` whose softmax
    is the distribution.

    Distillation as in Hinton et al., "Distilling the Knowledge in a Neural Network" (2015).
    """

    fingerprint: str = f"{TEMPERATURE} scores"
    note: str = ""

    def canonical(self, outputs: Inputs) -> Tensor:
        """Scores in float32."""
        return the_tensor(outputs).float()

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Kullback-Leibler divergence in nats, times the square of the temperature that softens both."""
        return _divergence(student / temperature, teacher / temperature) * temperature**2

    def target_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with labels `(N, …)`."""
        return F.cross_entropy(outputs, targets)

    def spread(self, outputs: Tensor) -> float:
        """The mean entropy of the answers in nats."""
        return float(-(outputs.softmax(1) * outputs.log_softmax(1)).sum(1).mean())

    def divergence(self, outputs: Tensor, original: Tensor) -> float:
        """Kullback-Leibler divergence of softened answers, in nats."""
        return float(_divergence(outputs / TEMPERATURE, original / TEMPERATURE))

    def agreement(self, outputs: Tensor, original: Tensor) -> float:
        """Share of samples, or positions, that get the same class."""
        return float((outputs.argmax(1) == original.argmax(1)).double().mean())

    def drawn_gradient(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Of the logarithm of a softened answer that is drawn."""
        share = (outputs.detach() / TEMPERATURE).softmax(1).movedim(1, -1)
        classes, positions = share.shape[-1], share[0].numel() // share.shape[-1]
        drawn = torch.multinomial(share.reshape(-1, classes), 1, generator=generator).reshape(share.shape[:-1])
        return ((F.one_hot(drawn, classes) - share) / (TEMPERATURE * math.sqrt(positions))).movedim(-1, 1)

    def drawn_loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Cross-entropy with an answer that is drawn."""
        share = outputs.detach().softmax(1).movedim(1, -1)
        drawn = torch.multinomial(share.reshape(-1, share.shape[-1]), 1, generator=generator)
        return F.cross_entropy(outputs, drawn.reshape(share.shape[:-1]))


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence in nats between scores `(N, classes, …)`: the mean over samples and positions."""
    total = F.kl_div(F.log_softmax(student, 1), F.log_softmax(teacher, 1), log_target=True, reduction="sum")
    return total / max(1, student.numel() // student.shape[1])


def is_categorical(likelihood: Any) -> bool:
    """Whether outputs are scores of classes; a likelihood that adds to another says which by its `likelihood`."""
    return isinstance(getattr(likelihood, "likelihood", likelihood), Categorical)


# For networks that put out scores.
CATEGORICAL = Categorical()


class Gaussian(_Everything):
    """Numbers `(N, …)` that targets are spread around with the variance that the original's outputs have.

    Losses are squared errors over that variance: 1 is what predicting the mean costs. Numbers `(N, D)` have each a
    variance of their own; in maps `(N, C, H, W, …)` those of a channel share one, and in sequences `(N, L, D)` those of
    a feature. Where a number is the same for all samples, the mean of the other variances stands for its own.

    Args:
        outputs: The original's outputs `(N, …)` for calibration data.
    """

    note: str = ""

    def __init__(self, outputs: Tensor) -> None:
        values = outputs.detach().double()
        pooled = [0] if values.dim() < 3 else [0, 1] if values.dim() == 3 else [0, *range(2, values.dim())]
        variance = values.var(pooled, correction=0, keepdim=True)
        varies = variance > CONSTANT * values.square().mean(pooled, keepdim=True)
        rest = variance[varies].mean() if varies.any() else torch.ones(())
        self.variance = torch.where(varies, variance, rest)[0].float()

    @property
    def fingerprint(self) -> str:
        """The distribution and its variance, in three digits."""
        return "gaussian " + " ".join(f"{value:.2e}" for value in self.variance.flatten().tolist())

    def canonical(self, outputs: Inputs) -> Tensor:
        """Numbers in float32."""
        return the_tensor(outputs).float()

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Squared error over the original's variance; a temperature has no meaning here."""
        return ((student - teacher).square() / self.variance.to(student.device)).mean()

    def target_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """As `distillation_loss`, from targets of the outputs' shape."""
        return self.distillation_loss(outputs, targets.to(outputs.dtype), 1.0)

    def spread(self, outputs: Tensor) -> float:
        """1: the loss of the mean."""
        return 1.0

    def divergence(self, outputs: Tensor, original: Tensor) -> float:
        """Squared error over the original's variance."""
        return float(self.distillation_loss(outputs, original, 1.0))

    def agreement(self, outputs: Tensor, original: Tensor) -> float:
        """Share of the original's standard deviation that is not error."""
        return 1 - math.sqrt(self.divergence(outputs, original))

    def drawn_gradient(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Of the logarithm of the likelihood of numbers drawn around the outputs, in units in which half its second
        moment is the divergence: that is a mean over the numbers of a sample."""
        drawn = torch.randn(outputs.shape, generator=generator)
        return drawn * math.sqrt(2 / max(1, outputs[0].numel())) / self.variance.sqrt()

    def drawn_loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Half the squared error of numbers drawn around the outputs, over the variance."""
        drawn = outputs.detach() + torch.randn(outputs.shape, generator=generator) * self.variance.sqrt()
        return ((outputs - drawn).square() / (2 * self.variance)).mean()


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
        """The reverse of `canonical`: each output in its own canonical form, by name."""
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
