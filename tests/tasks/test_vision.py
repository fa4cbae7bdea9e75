from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from autocompress.errors import EnvironmentFault
from autocompress.tasks import vision


def test_torchvision_builds_a_model() -> None:
    net = vision.import_torchvision().models.resnet18(num_classes=5).eval()
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_mending_twice_declares_once() -> None:
    vision.import_torchvision()
    before = len(vision._declared)
    vision.import_torchvision()
    assert len(vision._declared) == before <= 1


def test_import_in_a_fresh_interpreter_warns_of_nothing() -> None:
    code = "from autocompress.tasks.vision import import_torchvision; import_torchvision().models.resnet18()"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_absent_torchvision_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="pip install torchvision"):
        vision.import_torchvision()
