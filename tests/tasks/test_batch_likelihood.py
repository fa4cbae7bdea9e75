"""What outputs stand for: classes or numbers, several at once, masked, and a user's loss in the place of targets."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autocompress.errors import InputError
from autocompress.tasks.batch_likelihood import Reading
from autocompress.tasks.batch_split import Batch
from autocompress.tensors.composed import Joint
from autocompress.tensors.likelihood import CATEGORICAL, is_categorical
from autocompress.tensors.named import NamedTensors

GENERATOR = torch.Generator().manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR)


def summed(outputs: Any, batch: Any) -> Tensor:
    return sum((value * batch[name]).sum() for name, value in outputs.items())  # type: ignore[return-value]


SCORES, NUMBERS = randn(32, 5), 3 * randn(32, 4) + 2


def test_outputs_are_classes_where_it_is_said_or_seen() -> None:
    for reading, outputs, categorical in (
            (Reading({}), SCORES, False), (Reading({"output": "classes"}), SCORES, True),
            (Reading({}), SCORES.softmax(1), True), (Reading({"output": "numbers"}), SCORES.softmax(1), False),
            (Reading({}), SCORES[:, 0], False), (Reading({"output": "classes"}), randn(8, 3, 6, 6), True)):
        assert is_categorical(reading.likelihood(outputs, ())) is categorical


def test_several_outputs_are_alike_unless_weights_say_otherwise() -> None:
    outputs = NamedTensors(logits=SCORES, boxes=NUMBERS, kept=torch.arange(32))
    plain = Reading({"logits": "classes"}).likelihood(outputs, ())
    weighted = Reading({"logits": "classes"}, {"boxes": 3.0}).likelihood(outputs, ())
    student, teacher = plain.canonical(outputs.clone().each(lambda t: t.flip(0))), plain.canonical(outputs)
    assert teacher.shape == (32, 9), "whole numbers are not compared"
    of_scores = float(CATEGORICAL.distillation_loss(SCORES.flip(0), SCORES, 4.0))
    of_boxes = float(((NUMBERS.flip(0) - NUMBERS).square() / NUMBERS.var(0, correction=0)).mean())
    for likelihood, weight in ((plain, 1), (weighted, 3)):
        loss = float(likelihood.distillation_loss(student, teacher, 4.0))
        assert loss == pytest.approx((of_scores + weight * of_boxes) / (1 + weight), rel=1e-4)
    assert plain.fingerprint != weighted.fingerprint


@pytest.mark.parametrize("meaning", ["classes last", "numbers"])
def test_padding_is_not_compared(meaning: Any) -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]] * 8)
    outputs, inputs = randn(16, 4, 6), NamedTensors(input_ids=mask, attention_mask=mask)
    likelihood = Reading({"output": meaning}, masks={"attention_mask": (4,)}).likelihood(outputs, ())
    teacher = likelihood.compared(likelihood.canonical(outputs), inputs)
    student = likelihood.canonical(torch.where(mask[:, :, None] == 1, outputs, 1e3 * randn(16, 4, 6)))
    assert float(likelihood.distillation_loss(student, teacher, 4.0)) == pytest.approx(0, abs=1e-5)
    assert float(likelihood.distillation_loss(student.roll(1, 2), teacher, 4.0)) > 0.1
    assert likelihood.divergence(student, teacher) == pytest.approx(0, abs=1e-5)


def test_classes_may_be_the_last_axis() -> None:
    outputs = randn(6, 7, 5)
    last = Reading({"output": "classes last"}).likelihood(outputs, ())
    first = Reading({"output": "classes"}).likelihood(outputs.movedim(-1, 1), ())
    one, other = outputs.roll(1, 0), outputs
    for name, more in (("distillation_loss", (4.0,)), ("divergence", ()), ("agreement", ())):
        assert float(getattr(last, name)(one, other, *more)) == pytest.approx(
            float(getattr(first, name)(one.movedim(-1, 1), other.movedim(-1, 1), *more)), rel=1e-5)
    assert last.spread(outputs) == pytest.approx(first.spread(outputs.movedim(-1, 1)), rel=1e-5)
    assert last.drawn_gradient(outputs, torch.Generator()).shape == outputs.shape


@pytest.mark.parametrize("outputs", [
    SCORES, SCORES.softmax(1), SCORES.log_softmax(1), NamedTensors(a=SCORES.softmax(1), b=NUMBERS),
    NamedTensors(a=randn(32, 2, 3, 3), b=NUMBERS[:, 0])], ids=["scores", "shares", "logarithms", "two", "map"])
def test_a_loss_is_given_what_the_network_puts_out(outputs: Any) -> None:
    """Whatever form outputs are compared in; with gradients in them."""
    named = {"output": outputs} if isinstance(outputs, Tensor) else dict(outputs.items())
    likelihood = Reading({}, loss=summed).likelihood(outputs, ())
    answers = likelihood.canonical(outputs).detach().requires_grad_()
    weights = {name: randn(*tensor.shape) for name, tensor in named.items()}
    loss = likelihood.target_loss(answers, Batch(weights, None, torch.arange(len(answers))))
    expected = sum((tensor * weights[name]).sum() for name, tensor in named.items())
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4, abs=1e-4)
    (gradient,) = torch.autograd.grad(loss, answers)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    assert pickle.loads(pickle.dumps(likelihood)).fingerprint == likelihood.fingerprint
    assert Reading({}).likelihood(outputs, ()).fingerprint != likelihood.fingerprint


def test_a_sigmoid_is_undone_for_training_and_back_for_the_loss() -> None:
    shares = torch.sigmoid(SCORES)
    likelihood = Reading({"output": "classes"}, loss=lambda outputs, batch: F.binary_cross_entropy(
        outputs["output"], batch)).likelihood(shares, ("output",))
    assert torch.allclose(likelihood.canonical(shares), SCORES, atol=1e-4)
    targets = (SCORES > 0).float()
    batch = Batch(targets, None, torch.arange(len(shares)))
    assert float(likelihood.target_loss(likelihood.canonical(shares), batch)) == pytest.approx(
        float(F.binary_cross_entropy(shares, targets)), rel=1e-4)


@pytest.mark.parametrize(("reading", "outputs", "message"), [
    (Reading({"boxes": "numbers"}), SCORES, "puts out, output, but name 'boxes'"),
    (Reading({}, {"boxes": 2.0}), NamedTensors(a=SCORES, b=SCORES), "a, b, but name 'boxes'"),
    (Reading({"output": "classes"}), SCORES[:, 0], r"scores \(N, classes, …\)"),
    (Reading({}), SCORES.argmax(1), "floating-point numbers"),
])
def test_outputs_that_cannot_be_read_are_said(reading: Reading, outputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        reading.likelihood(outputs, ())


def test_one_output_of_several_names_is_no_joint() -> None:
    assert not isinstance(Reading({}).likelihood(NamedTensors(a=SCORES), ()).likelihood, Joint)  # type: ignore[attr-defined]
