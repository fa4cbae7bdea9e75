"""Canonical forms of transposed convolutions (output channels first) and recurrent layers (a layer for each weight).

Layers are rewritten before a network is traced. That the network still computes the same is proved on real inputs.
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
    """Rewrite transposed convolutions and recurrent layers in canonical form.

    Args:
        model: The network, in eval mode; it is not changed.
        inputs: Real inputs `(N, …)`, on which the network's output must stay the same.

    Returns:
        The rewritten network, or `model` where nothing was rewritten; and by name why such layers were left whole.
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
    forms = {name: _FORMS[type(module)](opened.get_submodule(name)) for name, module in candidates.items()
            if name not in whole}
    if forms:
        with torch.no_grad():
            replaced = put_equivalents(opened, forms, inputs, model(inputs))
        whole |= dict.fromkeys(set(forms) - replaced, "the network reads more of it than its output, or gives it "
                                                      "packed sequences")
    reasons = {name: f"{type(candidates[name]).__name__} is left whole: {why}" for name, why in sorted(whole.items())}
    return (opened if set(candidates) - set(whole) else model), reasons
