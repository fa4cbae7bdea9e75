"""What the outputs of a network say about its targets: the distributions that training and sensitivities rest on."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from autocompress.tensors.named import Inputs, the_tensor

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
        """Outputs as the other methods take them: one tensor, float32, the samples first; differentiable.

        Args:
            outputs: of a network, a tensor `(N, …)`, or `NamedTensors` of several.
        """

    def compared(self, answers: Tensor, inputs: Inputs) -> Tensor:
        """A teacher's answers with NaN where students are not compared with them, such as behind the end of a text.

        Args:
            answers: `(N, …)`, in canonical form.
            inputs: those that were answered, `(N, …)`.
        """

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """How far a student's outputs are from a teacher's.

        Args:
            student: `(N, …)`, in canonical form.
            teacher: of the same shape; NaN where `compared` made it so.
            temperature: divides scores of classes on both sides before they are compared.

        Returns:
            A tensor `()`, differentiable in `student`.
        """

    def target_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How far outputs are from the data's own targets.

        Args:
            outputs: `(N, …)`, in canonical form.
            targets: `(N, …)`, rows of `Task.train_targets`.

        Returns:
            A tensor `()`, differentiable in `outputs`.
        """

    def spread(self, outputs: Tensor) -> float:
        """About the distillation loss of a student that knows nothing, against given `outputs` `(N, …)`."""

    def divergence(self, outputs: Tensor, original: Tensor) -> float:
        """The mean divergence of a network's outputs from the original's: nats, or squared error over the original's
        variance.

        Args:
            outputs: `(N, …)`, in canonical form.
            original: of the same shape.
        """

    def agreement(self, outputs: Tensor, original: Tensor) -> float:
        """How alike two sets of outputs are, 1 for the same.

        Args:
            outputs: `(N, …)`, in canonical form.
            original: of the same shape.
        """

    def drawn_gradient(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """The gradient, with respect to the outputs, of the log-likelihood of targets that are drawn from the
        distribution: the Fisher information is its second moment.

        Args:
            outputs: `(N, …)`, in canonical form.
            generator: of random numbers, from which targets are drawn.

        Returns:
            A tensor of the outputs' shape.
        """

    def drawn_loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """The mean negative log-likelihood of targets that are drawn from the distribution, but for constants.

        Args:
            outputs: `(N, …)`, in canonical form.
            generator: of random numbers, from which targets are drawn.

        Returns:
            A tensor `()`, differentiable in `outputs`.
        """


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
    """Whether the outputs of a `likelihood` are scores of classes; one that adds to another says which by its
    `likelihood`."""
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
