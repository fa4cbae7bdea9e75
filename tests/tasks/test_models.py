from __future__ import annotations

import os
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from autocompress.errors import EnvironmentFault, InputError
from autocompress.tasks.data import TaskData, load_data
from autocompress.tasks.models import check_fits, load_model, model_fingerprint, safe_name
from autocompress.tasks.vision import import_torchvision


def test_a_module_is_copied_and_made_ready(net: nn.Module, data: TaskData) -> None:
    net.double().train()
    loaded = load_model(net, data=data)
    assert loaded.name == "Sequential"
    assert not any(module.training for module in loaded.model.modules())
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert net.training
    assert next(net.parameters()).dtype == torch.float64


def test_fingerprint_sees_weights_buffers_and_structure(net: nn.Module, data: TaskData) -> None:
    first = load_model(net, data=data).fingerprint
    assert load_model(net, data=data).fingerprint == first == model_fingerprint(net)
    net[1].running_mean[0] += 1  # type: ignore[index]
    second = model_fingerprint(net)
    net[2] = nn.ReLU6()  # type: ignore[index]
    assert len({first, second, model_fingerprint(net)}) == 3


def test_a_factory_with_weights(user_file: Path, data: TaskData, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    state = {"1.weight": torch.ones(3, 64), "1.bias": torch.zeros(3)}
    safetensors.torch.save_file(state, weights)
    loaded = load_model(f"{user_file}:model", weights=weights, data=data)
    assert loaded.name == "my-net"
    assert torch.equal(loaded.model.state_dict()["1.weight"], state["1.weight"])


def test_factories_must_return_a_module(user_file: Path, data: TaskData) -> None:
    with pytest.raises(InputError, match=r"must return a torch.nn.Module, but returned int"):
        load_model(f"{user_file}:number", data=data)
    with pytest.raises(InputError, match="trust"):
        load_model(f"{user_file}:model", data=data, trust_code=False)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_torchvision_models_are_built_for_the_data(channels: int, tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((20, channels, 40, 32), dtype=np.float32)
    data = load_data((x, np.arange(20) % 2))
    models = import_torchvision().models
    source = models.squeezenet1_1(num_classes=2)
    source.features[0] = nn.Conv2d(channels, 64, 3, stride=2)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    loaded = load_model("torchvision:squeezenet1_1", weights=tmp_path / "w.pth", data=data)
    assert loaded.name == "squeezenet1_1"
    with torch.no_grad():
        assert torch.equal(loaded.model(data.train.inputs), source.eval()(data.train.inputs))


def test_weights_of_another_number_of_classes(data: TaskData, tmp_path: Path) -> None:
    torch.save(import_torchvision().models.shufflenet_v2_x0_5(num_classes=7).state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"fc.weight \(3, 1024\) against \(7, 1024\)"):
        load_model("torchvision:shufflenet_v2_x0_5", weights=tmp_path / "w.pth", data=data)


SHARED = Path(os.environ.get("AUTOCOMPRESS_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.mark.skipif(not (SHARED / "base").is_dir(), reason=f"no {SHARED / 'base'}: set AUTOCOMPRESS_SHARED")
def test_a_trained_network_of_a_user_is_as_good_as_told() -> None:
    try:
        data = load_data("fashion-mnist")
    except EnvironmentFault as fault:
        pytest.skip(str(fault))
    base = SHARED / "base" / "resnet18_fashion.py"
    loaded = load_model(f"{base}:model", weights=base.with_suffix(".safetensors"), data=data)
    assert loaded.name == "resnet18_fashion"
    some = data.validation.take(torch.arange(500))
    with torch.no_grad():
        right = loaded.model(data.normalise(some.inputs)).argmax(1) == some.targets
    assert abs(float(right.float().mean()) - 0.933) < 0.034  # three standard errors


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:resnet81", "did you mean resnet18"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no classification model"),
        ("torchvision:resnet18", "1000 classes apart on 3 channels, but data has 3 classes and 1 channels"),
        ("resnet18", "must be one of torchvision:NAME"),
        ("net.onnx", "must be one of torchvision:NAME"),
    ],
)
def test_unusable_specs(data: TaskData, spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(spec, data=data)


def _thousand(data: TaskData) -> TaskData:
    """The same, as if it were three of a thousand classes in colour."""
    colour = [replace(s, inputs=s.inputs.repeat(1, 3, 8, 8)) for s in (data.train, data.validation, data.test)]
    return replace(data, train=colour[0], validation=colour[1], test=colour[2], classes=1000)


def test_hub_weights_without_network_name_the_cache(
    data: TaskData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(EnvironmentFault, match=f"put squeezenet1_1-b8a52dc0.pth into {tmp_path / 'checkpoints'}"):
        load_model("torchvision:squeezenet1_1", data=_thousand(data))


def test_hub_weights_in_the_cache_need_no_network(
    data: TaskData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    state = import_torchvision().models.squeezenet1_1().state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    loaded = load_model("torchvision:squeezenet1_1", data=_thousand(data))
    assert torch.equal(loaded.model.state_dict()["features.0.weight"], state["features.0.weight"])


def test_absent_timm_is_named_with_the_command(data: TaskData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(EnvironmentFault, match="pip install timm"):
        load_model("timm:resnet10t", data=data)


class Answer(nn.Module):
    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, inputs: Tensor) -> object:
        return self.answer


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Conv2d(3, 4, 3), r"batches, \(2, 1, 8, 8\) float32, but said: RuntimeError: .*channels"),
        (nn.Conv2d(1, 4, 3), r"logits \(2, 3\), .* but answered \(2, 4, 6, 6\)"),
        (Answer((torch.zeros(2, 3), torch.zeros(2, 1))), "returned output_0, output_1: say with --task"),
        (Answer([{"scores": {1, 2}}]), "returned set under output_0.scores"),
        (Answer(torch.full((2, 3), torch.nan)), "NaN or infinite"),
        (Answer(torch.zeros(2, 5)), r"answered \(2, 5\)"),
    ],
)
def test_models_that_do_not_fit_the_data(data: TaskData, model: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_fits(model, data)


def test_checking_leaves_modes_and_statistics_alone(net: nn.Module, data: TaskData) -> None:
    net.train()
    net[1].eval()  # type: ignore[index]
    before = model_fingerprint(net)
    check_fits(net, data)
    assert net.training
    assert not net[1].training  # type: ignore[index]
    assert model_fingerprint(net) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resnet18", "resnet18"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", "model"),
        ("", "model"),
        ("a\0b c", "a-b-c"),
        ("naïve réseau", "naive-reseau"),
        ("网络", "model"),
        (".hidden", "hidden"),
        ("timm/vit_tiny.augreg", "timm-vit_tiny.augreg"),
    ],
)
def test_safe_names(text: str, expected: str) -> None:
    assert safe_name(text) == expected


def test_long_names_are_cut() -> None:
    assert len(safe_name("x" * 300)) == 80
