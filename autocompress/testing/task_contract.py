"""What every task owes: inherit `TaskContract`, say which task and a network for it, and pytest runs it all.

    class TestMine(TaskContract):
        def task(self):
            return MyTask()

        def network(self):
            return trained_network()
"""

from __future__ import annotations

import math
import pickle
from functools import cached_property
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.statistics.outputs import ends_in_sigmoid, outputs_of
from autocompress.core.metric import Metrics
from autocompress.tasks.base import SplitName, Task
from autocompress.tasks.models import load_network
from autocompress.tensors.likelihood import Likelihood
from autocompress.tensors.named import Inputs, by_name

SPLITS: tuple[SplitName, ...] = get_args(SplitName)


class TaskContract:
    """Inherit, and implement `task` and `network`."""

    def task(self) -> Task:
        """The task, made afresh."""
        raise NotImplementedError

    def network(self) -> nn.Module:
        """A trained network for it, that takes its inputs by the names of `forward`."""
        raise NotImplementedError

    @cached_property
    def _task(self) -> Task:
        return self.task()

    @cached_property
    def _model(self) -> nn.Module:
        return load_network(self.network(), self._task).model

    @cached_property
    def _likelihood(self) -> Likelihood:
        model, inputs = self._model, self._task.inputs("train", slice(0, 64))  # loading tells a task what is read
        return self._task.likelihood(outputs_of(model, inputs), ends_in_sigmoid(model, inputs))

    def _outputs(self, split: SplitName) -> Inputs:
        model = self._model
        return outputs_of(model, self._task.inputs(split, slice(0, self._task.samples(split))))

    def _canonical(self) -> Tensor:
        return self._likelihood.canonical(self._outputs("validation"))

    def _score(self, outputs: Inputs, most: int) -> Metrics:
        """The metrics of outputs for the validation split, handed over in ranges of `most` rows."""
        arrays = {name: tensor.numpy() for name, tensor in by_name(outputs).items()}
        answers = ((rows, {name: values[rows] for name, values in arrays.items()})
                   for rows in self._task.rows("validation", most))
        return self._task.score(answers, "validation", self._likelihood).metrics

    @pytest.mark.parametrize("split", SPLITS)
    def test_a_split_has_the_same_samples_whenever_it_is_asked(self, split: SplitName) -> None:
        """Rows by number are those of the whole, and a task made afresh has the same."""
        task, again, rows = self._task, self.task(), torch.tensor([1, 0])
        whole = task.inputs(split, slice(0, task.samples(split)))
        assert len(whole) == task.samples(split) >= 2
        for one, other in ((task.inputs(split, rows), whole[rows]), (again.inputs(split, slice(0, 2)), whole[:2])):
            assert _same(one, other)
        assert (again.fingerprint, again.metric) == (task.fingerprint, task.metric)

    @pytest.mark.parametrize("split", SPLITS)
    def test_rows_cover_a_split_in_order(self, split: SplitName) -> None:
        """Each sample is in one range, however many are asked for at once."""
        for most in (1, 7, 10**6):
            rows = list(self._task.rows(split, most))
            assert [i for one in rows for i in range(one.start, one.stop)] == [*range(self._task.samples(split))]

    def test_a_part_stands_for_a_split(self) -> None:
        """Rows in order, of which a larger part has all; its answers alone can be scored. None where all are needed."""
        task, samples = self._task, self._task.samples("validation")
        assert task.part("validation", samples) is None
        small, large = (task.part("validation", samples * quarters // 4) for quarters in (2, 3))
        if small is None or large is None:
            return
        assert small.equal(torch.unique(small)) and set(small.tolist()) <= set(large.tolist()) < set(range(samples))
        arrays = {name: tensor.numpy() for name, tensor in by_name(self._outputs("validation")).items()}
        answers = [(rows, {name: values[rows.numpy()] for name, values in arrays.items()})
                   for rows in torch.split(small, 7)]
        metrics = task.score(answers, "validation", self._likelihood).metrics
        assert math.isfinite(metrics[task.metric.name]) and metrics[task.metric.error] >= 0

    def test_the_score_is_of_the_outputs_alone(self) -> None:
        """Finite, the same twice, with a standard error that is not negative; worse where outputs are shuffled."""
        task, metric = self._task, self._task.metric
        outputs = self._outputs("validation")
        scored = self._score(outputs, 256)
        assert scored == self._score(outputs.clone(), 256)
        assert scored[metric.name] == pytest.approx(self._score(outputs, 5)[metric.name], rel=1e-4)
        assert math.isfinite(scored[metric.name]) and scored[metric.error] >= 0
        order = torch.from_numpy(np.random.default_rng(0).permutation(task.samples("validation")))
        shuffled = self._score(outputs[order], 256)
        assert metric.drop(scored[metric.name], shuffled[metric.name]) > 0, "a trained network is better than chance"

    def test_losses_vanish_where_outputs_are_equal(self) -> None:
        """The distillation loss and the divergence are 0 for equal outputs, and above it for others."""
        likelihood, outputs = self._likelihood, self._canonical()
        other = outputs.roll(1, 0)
        losses = [(float(likelihood.distillation_loss(one, outputs, 4.0)), likelihood.divergence(one, outputs))
                  for one in (outputs, other)]
        for same, different in zip(*losses, strict=True):
            assert abs(same) < 1e-5 < different
        assert likelihood.agreement(outputs, outputs) == pytest.approx(1)
        assert likelihood.agreement(other, outputs) < 1
        assert likelihood.spread(outputs) > 0

    def test_the_student_can_be_trained(self) -> None:
        """Losses have gradients in the outputs, which lead towards the teacher."""
        likelihood, teacher = self._likelihood, self._canonical()[:32]
        student = teacher.roll(1, 0).clone().requires_grad_()
        losses = [likelihood.distillation_loss(student, teacher, 4.0)]
        if self._task.has_targets:
            losses.append(likelihood.target_loss(student, self._task.train_targets[:len(student)]))
        for loss in losses:
            (gradient,) = torch.autograd.grad(loss, student)
            assert gradient.isfinite().all() and gradient.abs().max() > 0

    def test_the_gradient_of_drawn_targets_has_no_mean(self) -> None:
        """The score of a likelihood is zero on average over targets that are drawn from it."""
        likelihood, outputs = self._likelihood, self._canonical()[:16]
        generator = torch.Generator().manual_seed(0)
        drawn = torch.stack([likelihood.drawn_gradient(outputs, generator) for _ in range(2000)])
        error = drawn.std(0) / len(drawn) ** 0.5
        assert drawn.shape[1:] == outputs.shape
        assert (drawn.mean(0).abs() <= 5 * error + 0.01 * drawn.std()).all()  # rare classes may never be drawn
        assert float(likelihood.drawn_loss(outputs, generator)) >= 0

    def test_views_are_settled_by_their_number_and_the_seed(self) -> None:
        """The same view is the same, and as the network reads them views have the shape of inputs."""
        task = self._task
        view = task.train_view(1, 0)
        rows = torch.arange(min(64, task.samples("train")))
        assert _same(view[rows], task.train_view(1, 0)[rows])
        assert len(view) == task.samples("train") == len(task.train_targets)
        assert task.normalise(view[:2]).shape == task.inputs("train", slice(0, 2)).shape

    def test_task_and_likelihood_travel_to_other_processes(self) -> None:
        """Both can be pickled."""
        assert pickle.loads(pickle.dumps(self._task)).fingerprint == self._task.fingerprint
        assert pickle.loads(pickle.dumps(self._likelihood)).fingerprint == self._likelihood.fingerprint

    def test_values_are_shown_with_their_unit(self) -> None:
        """A value and a change are text for people."""
        metric = self._task.metric
        assert metric.unit in metric.format(0.5) and metric.format_change(0.5).startswith("+")


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return dict(one.items()).keys() == dict(other.items()).keys() and all(  # type: ignore[attr-defined]
        torch.equal(tensor, other[name]) for name, tensor in one.items())  # type: ignore[attr-defined, index]
