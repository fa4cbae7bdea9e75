"""Weights in the wrappings that training scripts put around them: taken where one reading fits, else said what fits."""

from __future__ import annotations

import argparse
import enum
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.tasks.weights import load_weights_file

State = dict[str, Tensor]


def _network(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))


@pytest.fixture
def trained() -> State:
    torch.manual_seed(1)
    return {name: tensor + 1 for name, tensor in _network().state_dict().items()}


def _before(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def _other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


def _loaded(path: Path, key: str | None = None) -> State:
    model = _network()
    load_weights_file(model, path, 3, key)
    return model.state_dict()


def _same(one: State, other: State) -> bool:
    return all(torch.allclose(one[name].float(), other[name].float(), atol=0.02) for name in other
               if not name.endswith("num_batches_tracked"))


@dataclass
class Settings:
    rate: float = 0.1


class Attributes(dict[str, Any]):
    pass


class Kind(enum.Enum):
    BEST = "best"


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "plain.pt": lambda s: s,
    "upper.PT": lambda s: s,
    "pytorch_model.bin": lambda s: s,
    "odd name (1) é #?%.pt": lambda s: s,
    "parallel.pth": lambda s: _before("module.", s),
    "compiled.pt": lambda s: _before("_orig_mod.", s),
    "parallel_compiled.pt": lambda s: _before("module._orig_mod.", s),
    "inner_compiled.pt": lambda s: {name.replace("1.", "1._orig_mod.", 1): t for name, t in s.items()},
    "sharded.pt": lambda s: _before("_fsdp_wrapped_module.", s),
    "tutorial.pt": lambda s: {"epoch": 6, "model_state_dict": s, "optimizer_state_dict": {
        "state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}},
    "timm.pth.tar": lambda s: {"epoch": 6, "arch": "x", "state_dict": s, "metric": np.float64(97.0)},
    "reference.pth": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1), "path": Path("runs"), "model_ema": s},
    "lightning.ckpt": lambda s: {"state_dict": _before("model.", s) | {"loss.weight": torch.ones(3)},
                                 "hyper_parameters": {"lr": 0.1}, "callbacks": {}},
    "deepspeed.pt": lambda s: {"module": s, "ds_config": {}},
    "ema.pt": lambda s: {"ema": s, "epoch": 6},
    "params.pt": lambda s: {"params": s},
    "averaged.pt": lambda s: {"n_averaged": torch.tensor(3), **_before("module.", s)},
    "nested.pt": lambda s: {"checkpoint": {"net": _before("backbone.", s)}},
    "thop.pt": lambda s: s | {"total_ops": torch.zeros(1), "4.total_params": torch.zeros(1)},
    "no_counter.pt": lambda s: {name: t for name, t in s.items() if not name.endswith("num_batches_tracked")},
    "half.pt": lambda s: {name: t.half() if t.is_floating_point() else t for name, t in s.items()},
    "bfloat16.pt": lambda s: {name: t.bfloat16() if t.is_floating_point() else t for name, t in s.items()},
    "double.pt": lambda s: {name: t.double() if t.is_floating_point() else t for name, t in s.items()},
    "classes_of_mine.pt": lambda s: {"settings": Settings(), "kind": Kind.BEST, "more": Attributes(a=1),
                                     "state_dict": s, "history": defaultdict(list, loss=[np.float32(1.0), np.ones(2)])},
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_usual_wrappings_are_taken(tmp_path: Path, trained: State, name: str) -> None:
    torch.save(WRAPPINGS[name](trained), tmp_path / name)
    assert _same(_loaded(tmp_path / name), trained)


def test_the_older_format_with_a_namespace_is_taken(tmp_path: Path, trained: State) -> None:
    torch.save({"model": trained, "args": argparse.Namespace(lr=0.1)}, tmp_path / "net.pth",
               _use_new_zipfile_serialization=False)
    assert _same(_loaded(tmp_path / "net.pth"), trained)


def test_a_network_inside_a_wrapper_of_its_own_takes_bare_names(tmp_path: Path, trained: State) -> None:
    torch.save(trained, tmp_path / "net.pt")
    wrapped = nn.ModuleDict({"net": _network()})
    load_weights_file(wrapped, tmp_path / "net.pt", 3)
    assert _same(wrapped["net"].state_dict(), trained)


@pytest.mark.parametrize("content", [
    lambda raw, mean: {"state_dict": raw, "state_dict_ema": mean},
    lambda raw, mean: {"model": raw, "model_ema": _before("module.", mean)},
    lambda raw, mean: {"params": raw, "params_ema": mean},
    lambda raw, mean: {"state_dict": _before("net.", raw) | _before("ema_net.", mean)},
    lambda raw, mean: {"model": raw, "ema": mean},
], ids=["timm", "torchvision", "basicsr", "lightning", "yolo"])
def test_an_average_goes_before_raw_weights_and_this_is_said(
    tmp_path: Path, trained: State, caplog: pytest.LogCaptureFixture, content: Any
) -> None:
    torch.save(content(trained, _other(trained)), tmp_path / "net.pt")
    with caplog.at_level(logging.WARNING):
        assert _same(_loaded(tmp_path / "net.pt"), _other(trained))
    assert "took the averaged weights under" in caplog.text
    key = caplog.text.rpartition("--weights-key ")[2].split()[0]
    assert _same(_loaded(tmp_path / "net.pt", key), trained)


@pytest.mark.parametrize("content", [
    lambda one, two: {"best": one, "last": two},
    lambda one, two: {"state_dict": _before("student.", one) | _before("teacher.", two)},
], ids=["dicts", "prefixes"])
def test_two_that_fit_alike_are_named_and_one_can_be_chosen(
    tmp_path: Path, trained: State, content: Any
) -> None:
    torch.save(content(trained, _other(trained)), tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"'(best|state_dict/student\.)' and '(last|state_dict/teacher\.)' fit alike"):
        _loaded(tmp_path / "net.pt")
    key = "last" if "best" in content(trained, trained) else "teacher"
    assert _same(_loaded(tmp_path / "net.pt", key), _other(trained))
    with pytest.raises(InputError, match="under the key 'nothing'"):
        _loaded(tmp_path / "net.pt", "nothing")


def test_weights_of_a_larger_network_are_not_taken_in_part(tmp_path: Path, trained: State) -> None:
    torch.save({"state_dict": trained | {"5.weight": torch.zeros(3, 3)}}, tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"net.pt \(state_dict\) must be weights of this model.*unexpected 5.weight"):
        _loaded(tmp_path / "net.pt")


def test_a_classifier_of_other_classes_is_said_wherever_it_lies(tmp_path: Path, trained: State) -> None:
    torch.save({"model": _before("module.", _network(7).state_dict()), "bad": {"0.weight": torch.zeros(1)}},
               tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"\(model/module\.\).*weights for 7 classes, data with 3"):
        _loaded(tmp_path / "net.pt")


def test_where_nothing_fits_each_candidate_is_counted(tmp_path: Path, trained: State) -> None:
    most = {name: tensor for name, tensor in trained.items() if name != "4.bias"}
    some = {name: tensor for name, tensor in trained.items() if name.startswith("1.")}
    torch.save({"net": most, "other": some}, tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"missing 4.bias.*Also in the file: other with \d matching tensors, 4 miss"):
        _loaded(tmp_path / "net.pt")


@pytest.mark.parametrize(("content", "message"), [
    (lambda net: net, r"whole pickled network \(torch\.nn\.modules\.container\.Sequential\).*torch\.save\(model\.st"),
    (lambda net: {"epoch": 1, "model": net}, "whole pickled network"),
    (lambda net: [1, 2], "holds list"),
    (lambda net: {}, "holds nothing"),
    (lambda net: {"lr": 0.1}, "holds lr and no tensor"),
    (lambda net: {"call": net.forward}, r"would call .*getattr"),
    (lambda net: {"0.weight": torch.zeros(4, 1, 3, 3).to_sparse(), **{
        n: t for n, t in net.state_dict().items() if n != "0.weight"}}, "0.weight are quantised, sparse"),
])
def test_what_cannot_be_taken_is_said_in_one_clean_line(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content(_network()), tmp_path / "net.pt")
    with pytest.raises(InputError, match=message) as caught:
        _loaded(tmp_path / "net.pt")
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 400


def test_torchscript_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning) if hasattr(torch.jit, "script") else pytest.raises(AttributeError):
        torch.jit.script(_network()).save(tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"TorchScript.*torch\.jit\.load\('net\.pt'\)\.state_dict"):
        _loaded(tmp_path / "net.pt")
