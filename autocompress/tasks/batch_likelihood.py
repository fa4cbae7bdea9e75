"""What the outputs of any network stand for: classes where that is known, numbers elsewhere, and a user's loss."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from autocompress.errors import AutocompressError, InputError
from autocompress.tasks.classification.outputs import ClassOutputs, recognise
from autocompress.tasks.classification.outputs import Meaning as ClassMeaning
from autocompress.tasks.identity import callable_fingerprint
from autocompress.tensors.composed import Joint, Masked
from autocompress.tensors.likelihood import Gaussian, Likelihood
from autocompress.tensors.named import Inputs, by_name

# What an output is: scores of classes, on axis 1 or on the last one, or numbers.
Meaning = Literal["classes", "classes last", "numbers"]
MEANINGS: tuple[Meaning, ...] = ("classes", "classes last", "numbers")
# Names of inputs (N, length) that are 0 behind the end of a sequence.
MASKS = ("attention_mask", "mask")
Loss = Callable[[Mapping[str, Tensor], Any], Tensor]


class ClassesLast(ClassOutputs):
    """The distribution over classes at each position of sequences `(N, length, classes)`, which keep that form."""

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """See `Categorical`."""
        return super().distillation_loss(student.movedim(-1, 1), teacher.movedim(-1, 1), temperature)

    def target_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Categorical`."""
        return super().target_loss(outputs.movedim(-1, 1), targets)

    def spread(self, outputs: Tensor) -> float:
        """See `Categorical`."""
        return super().spread(outputs.movedim(-1, 1))

    def divergence(self, outputs: Tensor, original: Tensor) -> float:
        """See `Categorical`."""
        return super().divergence(outputs.movedim(-1, 1), original.movedim(-1, 1))

    def agreement(self, outputs: Tensor, original: Tensor) -> float:
        """See `Categorical`."""
        return super().agreement(outputs.movedim(-1, 1), original.movedim(-1, 1))

    def drawn_gradient(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """See `Categorical`."""
        return super().drawn_gradient(outputs.movedim(-1, 1), generator).movedim(1, -1)

    def drawn_loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """See `Categorical`."""
        return super().drawn_loss(outputs.movedim(-1, 1), generator)


@dataclass(frozen=True)
class Reading:
    """How a task says that outputs are to be read.

    Args:
        meanings: what outputs are, by name; others are recognised where they are probabilities, else numbers.
        weights: how much an output counts beside the others, by name; left out, 1.
        masks: shapes `(length,)` of the masks among the inputs, by name.
        loss: of outputs by name and a batch, or None.
    """

    meanings: Mapping[str, Meaning]
    weights: Mapping[str, float] = field(default_factory=dict)
    masks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    loss: Loss | None = None

    def likelihood(self, outputs: Inputs, ends_in_sigmoid: Collection[str]) -> Likelihood:
        """What outputs `(N, …)` of a network stand for; those that are not floating-point numbers are not compared.

        Raises:
            InputError: where an output is named that there is not, or nothing can be compared.
        """
        tensors = by_name(outputs)
        for name in (*self.meanings, *self.weights):
            if name not in tensors:
                raise InputError(f"outputs and weights must name what the network puts out, {', '.join(tensors)}, but "
                                 f"name {name!r}")
        parts = {name: self._part(name, tensor, name in ends_in_sigmoid) for name, tensor in tensors.items()
                 if tensor.is_floating_point()}
        if not parts:
            raise InputError(f"the network must put out floating-point numbers to be trained by, but puts out "
                             f"{', '.join(f'{name} ({tensor.dtype})' for name, tensor in tensors.items())}")
        alone = len(tensors) == 1
        joint = next(iter(parts.values())) if alone else Joint(outputs, parts, self.weights)
        return OwnLoss(joint, parts, alone, self.loss)

    def _part(self, name: str, output: Tensor, from_sigmoid: bool) -> Likelihood:
        meaning = self.meanings.get(name)
        part: Likelihood
        if meaning in ("classes", "classes last"):
            if output.dim() < 2:
                raise InputError(f"an output of classes must be scores (N, classes, …), but {name} is "
                                 f"{tuple(output.shape)}")
            last = meaning == "classes last"
            kind = recognise(_rows(output, -1 if last else 1), from_sigmoid)
            part = ClassesLast(kind) if last else ClassOutputs(kind)
        elif meaning is None and recognise(_rows(output, 1)) != "scores":
            part = ClassOutputs(recognise(_rows(output, 1)))
        else:
            part = Gaussian(output)
        mask = mask_of(output, self.masks)
        return part if mask is None or meaning == "classes" else Masked(part, mask)


class OwnLoss:
    """Another likelihood, with a user's loss in the place of targets.

    Args:
        likelihood: of all outputs.
        parts: of each output, by name.
        alone: whether the network puts out one tensor, so that `likelihood` is its part.
        loss: outputs `(N, …)` by name, as the network puts them out, and a batch → a number; None where the training
            has no targets.
    """

    def __init__(self, likelihood: Likelihood, parts: Mapping[str, Likelihood], alone: bool, loss: Loss | None) -> None:
        self.likelihood, self._parts, self._alone, self._loss = likelihood, dict(parts), alone, loss
        self.note = likelihood.note
        of_loss = "" if loss is None else f" {callable_fingerprint(loss)}"
        self.fingerprint = likelihood.fingerprint + of_loss

    def meaning(self, output: str) -> ClassMeaning | None:
        """What the scores of an output mean; None where they are not of classes."""
        part = self._parts.get(output)
        meaning: ClassMeaning | None = getattr(part.likelihood if isinstance(part, Masked) else part, "meaning", None)
        return meaning

    def canonical(self, outputs: Any) -> Tensor:
        """As the other one's."""
        return self.likelihood.canonical(outputs)

    def compared(self, answers: Tensor, inputs: Inputs) -> Tensor:
        """As the other one's."""
        return self.likelihood.compared(answers, inputs)

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """As the other one's."""
        return self.likelihood.distillation_loss(student, teacher, temperature)

    def target_loss(self, outputs: Tensor, targets: Any) -> Tensor:
        """The user's loss of outputs in canonical form and a `Batch`; 0 where there is none."""
        if self._loss is None:
            return outputs.sum() * 0
        return checked_loss(self._loss, self.put_out(outputs), targets.content)

    def put_out(self, answers: Tensor) -> dict[str, Tensor]:
        """Canonical outputs as the network puts them out, by name; differentiable."""
        pieces = {next(iter(self._parts)): answers} if self._alone or not isinstance(self.likelihood, Joint) else \
            self.likelihood.split(answers)
        return {name: _put_out(self._parts[name], piece) for name, piece in pieces.items()}

    def spread(self, outputs: Tensor) -> float:
        """As the other one's."""
        return self.likelihood.spread(outputs)

    def divergence(self, outputs: Tensor, original: Tensor) -> float:
        """As the other one's."""
        return self.likelihood.divergence(outputs, original)

    def agreement(self, outputs: Tensor, original: Tensor) -> float:
        """As the other one's."""
        return self.likelihood.agreement(outputs, original)

    def drawn_gradient(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """As the other one's."""
        return self.likelihood.drawn_gradient(outputs, generator)

    def drawn_loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """As the other one's."""
        return self.likelihood.drawn_loss(outputs, generator)


def checked_loss(loss: Loss, outputs: Mapping[str, Tensor], batch: Any) -> Tensor:
    """The user's loss. InputError where it fails, or is not one number."""
    name = getattr(loss, "__name__", type(loss).__name__)
    try:
        value = loss(outputs, batch)
    except AutocompressError:
        raise
    except Exception as error:  # the user's code: anything can come
        cause = f"there is no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"the loss {name} must take the outputs {', '.join(outputs)} and a batch, but raised "
                         f"{type(error).__name__}: {cause}") from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"a tensor of {value.numel()} values" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"the loss {name} must return a tensor of one number, but returned {what}: take the mean")
    return value.reshape(())


def require_gradient(loss: Loss, outputs: Mapping[str, Tensor], batch: Any) -> None:
    """InputError where a user's loss does not depend on the outputs `(N, …)` of the original, or is not finite."""
    leaves = {name: tensor.detach().clone().requires_grad_(tensor.is_floating_point())
              for name, tensor in outputs.items()}
    value = checked_loss(loss, leaves, batch)
    trained = [leaf for leaf in leaves.values() if leaf.requires_grad]
    name = getattr(loss, "__name__", type(loss).__name__)
    if not value.requires_grad or all(gradient is None for gradient in torch.autograd.grad(
            value, trained, allow_unused=True)):
        raise InputError(f"the loss {name} must depend on the outputs, but has no gradient in any of "
                         f"{', '.join(outputs)}: compute it in torch from the outputs that it is given, without "
                         "detach, item or numpy")
    if not bool(torch.isfinite(value)):
        raise InputError(f"the loss {name} must be finite for the original's outputs, but is {float(value.detach())}")


def mask_of(output: Tensor, masks: Mapping[str, tuple[int, ...]]) -> str | None:
    """Name of the mask whose length is the second of three or more axes of an output, or None: two axes may as well be
    an embedding of that size."""
    return next((name for name, shape in masks.items() if output.dim() > 2 and tuple(output.shape[1:2]) == shape), None)


def _put_out(part: Likelihood, answers: Tensor) -> Tensor:
    """The reverse of a part's `canonical`."""
    inner = part.likelihood if isinstance(part, Masked) else part
    meaning = getattr(inner, "meaning", "scores")
    if meaning == "probabilities":
        return answers.exp()
    return answers.sigmoid() if meaning == "independent probabilities" else answers


def _rows(output: Tensor, axis: int) -> Any:
    """Rows of values along an axis, at most a few thousand."""
    if output.dim() < 2:
        return output.float().numpy()
    moved_last = output.float().movedim(axis, -1)
    return moved_last.reshape(-1, moved_last.shape[-1])[:4096].numpy()

