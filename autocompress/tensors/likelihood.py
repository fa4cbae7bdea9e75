"""What the outputs of a network say about its targets: the distributions that training and sensitivities rest on."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# At which class scores are softened where networks are compared: one that is sure of everything would hide what
# differs.
TEMPERATURE = 4.0
LEAST_VARIANCE = 1e-12


class Likelihood(Protocol):
    """The distribution of targets that the outputs of a network stand for.

    `canonical` requires outputs `(N, …)` as the network puts them out, of any number of samples; all other methods
    require what `canonical` made of them. Losses are means over samples, differentiable in the student, and 0 where
    both networks put out the same. An implementation holds plain values and tensors alone, so that it can be pickled.
    """

    @property
    def fingerprint(self) -> str:
        """Text that differs where the same outputs would give another gradient or loss."""

    @property
    def note(self) -> str:
        """A sentence for the user about how outputs are read; empty where there is nothing to say."""

    def canonical(self, outputs: Tensor) -> Tensor:
        """Outputs `(N, …)` as the other methods take them, float32, the samples first; differentiable."""

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


class Categorical:
    """One of several classes for each sample, from scores `(N, classes)` whose softmax is the distribution.

    Distillation as in Hinton et al., "Distilling the Knowledge in a Neural Network" (2015).
    """

    fingerprint: str = f"{TEMPERATURE} scores"
    note: str = ""

    def canonical(self, outputs: Tensor) -> Tensor:
        """Scores in float32."""
        return outputs.float()

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Kullback-Leibler divergence in nats, times the square of the temperature that softens both."""
        return F.kl_div(F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1),
                        log_target=True, reduction="batchmean") * temperature**2

    def target_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with labels `(N,)`."""
        return F.cross_entropy(outputs, targets)

    def spread(self, outputs: Tensor) -> float:
        """The mean entropy of the answers in nats."""
        return float(-(outputs.softmax(1) * outputs.log_softmax(1)).sum(1).mean())

    def divergence(self, outputs: Tensor, original: Tensor) -> float:
        """Kullback-Leibler divergence of softened answers, in nats."""
        return float(F.kl_div((outputs / TEMPERATURE).log_softmax(1), (original / TEMPERATURE).log_softmax(1),
                              log_target=True, reduction="batchmean"))

    def agreement(self, outputs: Tensor, original: Tensor) -> float:
        """Share of samples that get the same class."""
        return float((outputs.argmax(1) == original.argmax(1)).double().mean())

    def drawn_gradient(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Of the logarithm of a softened answer that is drawn."""
        share = (outputs.detach() / TEMPERATURE).softmax(1)
        answer = torch.multinomial(share, 1, generator=generator)[:, 0]
        return (F.one_hot(answer, share.shape[1]) - share) / TEMPERATURE

    def drawn_loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Cross-entropy with an answer that is drawn."""
        answer = torch.multinomial(outputs.detach().softmax(1), 1, generator=generator)[:, 0]
        return F.cross_entropy(outputs, answer)


# For networks that put out scores.
CATEGORICAL = Categorical()


class Gaussian:
    """Numbers `(N, …)` that targets are spread around with the variance that the original's outputs have.

    Losses are squared errors over that variance: 1 is what predicting the mean costs.

    Args:
        outputs: The original's outputs `(N, …)` for calibration data.
    """

    note: str = ""

    def __init__(self, outputs: Tensor) -> None:
        self.variance = outputs.detach().float().var(0, correction=0).clamp_min(LEAST_VARIANCE)

    @property
    def fingerprint(self) -> str:
        """The distribution and its variance, in three digits."""
        return "gaussian " + " ".join(f"{value:.2e}" for value in self.variance.flatten().tolist())

    def canonical(self, outputs: Tensor) -> Tensor:
        """Numbers in float32."""
        return outputs.float()

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
        """Of the logarithm of the likelihood of numbers drawn around the outputs."""
        return torch.randn(outputs.shape, generator=generator) / self.variance.sqrt()

    def drawn_loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Half the squared error of numbers drawn around the outputs, over the variance."""
        drawn = outputs.detach() + torch.randn(outputs.shape, generator=generator) * self.variance.sqrt()
        return (outputs - drawn).square().div(2 * self.variance).flatten(1).sum(1).mean() if outputs.dim() > 1 \
            else (outputs - drawn).square().div(2 * self.variance).mean()
