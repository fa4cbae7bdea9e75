"""One ResNet-18 for 28×28 grey pictures on its bench."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.tasks.vision import import_torchvision
from autocompress.testing.networks import randomised_norms, task_data


@pytest.fixture(scope="session")
def resnet() -> Workbench:
    """Random weights, norm statistics as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = import_torchvision().models.resnet18(num_classes=10)
        model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        randomised_norms(model.eval())
    return Workbench(model, task_data((1, 28, 28), 10, samples=16), load_profile("host"), seed=0,
                     folder=Path(os.devnull), epochs=1)
