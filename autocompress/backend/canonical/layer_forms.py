"""Layers in the form that techniques take, before a network is traced: transposed convolutions with output channels
first, recurrent layers with a layer for each weight. That the network still computes the same is proved on real inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.backend.canonical.equivalents import put_equivalents
from autocompress.backend.layers.recurrent import Recurrent
from autocompress.backend.layers.transposed import TransposedConv

_FORMS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.ConvTranspose1d: TransposedConv.of, nn.ConvTranspose2d: TransposedConv.of, nn.ConvTranspose3d: TransposedConv.of,
    nn.LSTM: Recurrent, nn.GRU: Recurrent, nn.RNN: Recurrent,
}


def in_one_form(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, dict[str, str]]:
    """A network that computes the same with those layers rewritten, and why others were left whole, by name.

    `model` (eval mode) is not changed, and is returned where there is nothing to do. `inputs`: real ones `(N, …)`.
    """
    candidates = {name: module for name, module in model.named_modules(remove_duplicate=False)
                  if name and type(module) in _FORMS}
    counts = [id(module) for module in candidates.values()]
    whole = {}
    for name, module in candidates.items():
        if parametrize.is_parametrized(module) or module._forward_pre_hooks or module._forward_hooks:
            whole[name] = "it is parametrised, or hooks change it"
        elif counts.count(id(module)) > 1:
            whole[name] = "it stands at several places"
    opened = copy.deepcopy(model)
    made = {name: _FORMS[type(module)](opened.get_submodule(name)) for name, module in candidates.items()
            if name not in whole}
    if made:
        with torch.no_grad():
            put = put_equivalents(opened, made, inputs, model(inputs))
        whole |= dict.fromkeys(set(made) - put, "the network reads more of it than its output, or gives it packed "
                                                "sequences")
    told = {name: f"{type(candidates[name]).__name__} is left whole: {why}" for name, why in sorted(whole.items())}
    return (opened if set(candidates) - set(whole) else model), told
