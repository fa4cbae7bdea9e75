"""Wrapped and reparametrised networks: the network itself, with its weights, and the user's own left as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm
from torch.optim.swa_utils import AveragedModel

from autocompress.errors import InputError
from autocompress.tasks.wrapped import copied, unwrapped, with_plain_weights

WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "weight norm by hooks": old_weight_norm, "spectral norm by hooks": old_spectral_norm,
    "weight norm": parametrizations.weight_norm, "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal, "mask": lambda m: prune.l1_unstructured(m, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("way", WAYS)
def test_a_computed_weight_becomes_one_parameter(way: str) -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(6, 4), torch.randn(3, 6)
    WAYS[way](layer)
    model = nn.Sequential(layer, nn.ReLU()).train()
    model(inputs).sum().backward()  # as training leaves it
    expected, before = model.eval()(inputs).detach(), list(model.state_dict())
    plain = with_plain_weights(copied(model))
    assert sorted(plain.state_dict()) == ["0.bias", "0.weight"]
    assert isinstance(plain.get_submodule("0").weight, nn.Parameter)
    torch.testing.assert_close(plain(inputs).detach(), expected)
    assert list(model.state_dict()) == before, "the user's network is as it was"
    torch.testing.assert_close(model(inputs).detach(), expected)
    assert sorted(with_plain_weights(copied(model)).state_dict()) == ["0.bias", "0.weight"], "and can be given again"


class Training(nn.Module):
    """Trains a network and cannot be called itself."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.loss = net, nn.CrossEntropyLoss()


class Calling(Training):
    """Can be called, and does more than its network."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 6)` → `(N, 4)`."""
        result: Tensor = self.net(x) * 2
        return result


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.compile imports
@pytest.mark.parametrize("wrap", [nn.DataParallel, AveragedModel, torch.compile, Training,
                                  lambda net: AveragedModel(nn.DataParallel(net))])
def test_a_wrapper_is_taken_off_with_a_word(wrap: Callable[[nn.Module], nn.Module],
                                            caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        inner = unwrapped(wrap(nn.Linear(6, 4)))
    assert type(inner) is nn.Linear and "out of its wrapper" in caplog.text


def test_what_computes_more_is_no_wrapper() -> None:
    for model in (Calling(nn.Linear(6, 4)), nn.Sequential(nn.Linear(6, 4))):
        assert unwrapped(model) is model


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript is old
@pytest.mark.parametrize("made", [torch.jit.script, lambda net: torch.jit.trace(net, torch.zeros(1, 6))])
def test_torchscript_is_refused(made: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(InputError, match=r"one of TorchScript .*: give the network that it was scripted"):
        unwrapped(made(nn.Linear(6, 4)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_wrapped_part_is_taken_out_too() -> None:
    model = nn.Sequential(torch.compile(nn.Linear(6, 4)), nn.ReLU()).eval()  # type: ignore[arg-type]
    plain = with_plain_weights(model)
    assert list(plain.state_dict()) == ["0.weight", "0.bias"]


def test_a_copy_returns_no_cache_of_keys_and_values() -> None:
    """As networks of transformers that generate text do, unless their configuration says otherwise."""
    class Generator(nn.Linear):
        config = None

        def forward(self, inputs: Tensor) -> Any:
            answers = super().forward(inputs)
            return {"logits": answers, "past_key_values": object()} if self.config.use_cache else {"logits": answers}

    network = Generator(3, 2)
    network.config = SimpleNamespace(use_cache=True)
    assert [*copied(network)(torch.zeros(1, 3))] == ["logits"]
    assert network.config.use_cache
