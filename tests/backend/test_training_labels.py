"""Labels in distillation: read where they say more than the original, else replaced by its unsoftened answers."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from autocompress.backend.training.distill import distill
from autocompress.backend.training.recipe import Recipe
from autocompress.backend.training.teacher import Teacher
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.tasks.splits import TaskData
from autocompress.testing.exporters import integers
from autocompress.testing.techniques import outputs, trained_workbench


def test_labels_that_are_the_originals_answers_are_not_trained_on() -> None:
    """Such labels only make students surer than the original; those that differ in one sample are read."""
    bench = trained_workbench("chain")
    task, model = bench.network.task, bench.network.user_model
    assert isinstance(task, TaskData)

    def reads_labels(right: bool) -> bool:
        labels = outputs(model, task.inputs("train", slice(0, None))).argmax(1)
        if not right:
            labels[0] = (labels[0] + 1) % task.classes
        train = replace(task.train, targets=labels)
        other = Workbench(model, replace(task, train=train), load_profile("host"), seed=0, epochs=1)
        return other.network.reads_labels

    assert not reads_labels(True) and reads_labels(False)


def test_without_labels_their_share_of_the_loss_softens_no_scores() -> None:
    """With all of that share a student is trained as at temperature 1; the labels are not looked at."""
    bench = trained_workbench("chain")

    def trained(label_weight: float, temperature: float) -> Tensor:
        teacher = Teacher(lambda inputs: outputs(bench.network.model, inputs), bench.network.task, 0, None)
        recipe = Recipe(epochs=2, batch=16, label_weight=label_weight, temperature=temperature, reads_labels=False)
        done = distill(bench.network.compressor.compress(integers(bench, (8,), 8)), teacher, bench.network.task,
                       recipe, bench.network.calibration, 0)
        facts = next(receipt.facts for receipt in done.receipts if receipt.technique == "distill")
        assert facts["unsoftened_weight"] == label_weight and "label_weight" not in facts
        return outputs(done.model, bench.network.calibration)

    torch.testing.assert_close(trained(1.0, 4.0), trained(0.0, 1.0), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(trained(1.0, 4.0), trained(0.0, 4.0), rtol=1e-3, atol=1e-4)
