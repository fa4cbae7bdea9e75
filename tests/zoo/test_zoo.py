"""Families of networks at the smallest width: traced, compressed, exported, and the same in the runtime."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from autocompress.backend.network.fold import behind_norm
from autocompress.tasks.vision import import_torchvision, mend_torchvision

CLASSES = 5


def _zoo() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "zoo.py"
    spec = importlib.util.spec_from_file_location("zoo", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        spec.loader.exec_module(module)
    return module


zoo = _zoo()


def _shufflenet(models: Any) -> nn.Module:
    network: nn.Module = models.ShuffleNetV2([1, 1, 1], [8, 16, 32, 64, 32], num_classes=CLASSES)
    return network


def _densenet(models: Any) -> nn.Module:
    network: nn.Module = models.DenseNet(8, (2, 2), 8, num_classes=CLASSES)
    return network


def _convnext(models: Any) -> nn.Module:
    block = models.convnext.CNBlockConfig
    network: nn.Module = models.ConvNeXt([block(16, 32, 1), block(32, None, 1)], num_classes=CLASSES)
    return network


def _swin(models: Any) -> nn.Module:
    network: nn.Module = models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [2, 2], num_classes=CLASSES)
    return network


def _mobilenet(models: Any) -> nn.Module:
    config = models.mobilenetv3.InvertedResidualConfig
    settings = [config(16, 3, 24, 16, True, "RE", 1, 1, 1.0), config(16, 5, 32, 24, True, "HS", 2, 1, 1.0)]
    network: nn.Module = models.MobileNetV3(settings, 32, num_classes=CLASSES)
    return network


@pytest.mark.parametrize("make", [_convnext, _swin, _mobilenet, *(
    pytest.param(family, marks=pytest.mark.slow) for family in (_shufflenet, _densenet))])
def test_a_small_network_of_each_family_passes(make: Callable[[Any], nn.Module]) -> None:
    torch.manual_seed(0)
    model = zoo.livened(make(import_torchvision().models).eval())
    row = zoo.check_network(model, torch.randn(16, 3, 32, 32))
    assert "fault" not in row
    assert row["error"] <= zoo.TOLERANCE
    assert row["steps"]["quantize"] >= 5 and row["steps"]["decompose"] >= 1


@pytest.mark.parametrize("name", ["unet:unet", "unet:unet-groupnorm", *(
    pytest.param(name, marks=pytest.mark.slow) for name in ("unet:unet-shuffle", "unet:linknet"))])
def test_a_unet_as_users_write_it_passes(name: str) -> None:
    """Skips by concatenation and by sums, every way up; channels are cut where that is proved."""
    torch.manual_seed(0)
    network, inputs = zoo.zoo_networks.build(name, 4)
    row = zoo.check_network(zoo.livened(network), inputs)
    assert "fault" not in row and row["groups"] >= 2  # norms over groups of channels keep theirs whole


def test_a_norm_with_an_activation_in_it_keeps_the_activation_when_it_is_folded() -> None:
    mend_torchvision()
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    model = nn.Sequential(layers.ConvNormAct(3, 16), layers.ConvNormAct(16, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(16, CLASSES))
    row = zoo.check_network(zoo.livened(model.eval()), torch.randn(16, 3, 8, 8))
    assert "fault" not in row
    assert isinstance(behind_norm(model[0].bn)[0], nn.ReLU)


@pytest.mark.slow
@pytest.mark.skipif("AUTOCOMPRESS_ZOO" not in os.environ, reason="hours: set AUTOCOMPRESS_ZOO=1 to run the whole zoo")
def test_nearly_the_whole_zoo_passes() -> None:
    pytest.importorskip("timm", exc_type=ImportError)
    zoo.preload()
    rows = {name: zoo.run(name, 600) for name in zoo.names()}
    failed = {name: row["fault"] for name, row in rows.items() if "fault" in row}
    assert len(failed) <= 0.03 * len(rows), failed
