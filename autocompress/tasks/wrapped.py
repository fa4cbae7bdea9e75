"""Networks as training leaves them, made plain: wrappers taken off, reparametrised weights computed once and for all.

Compiling, data parallelism and averaging put a network inside another module; weight norm, spectral norm, masks and
other parametrisations keep a weight as what it is computed from. What is deployed is the network itself with weights.
"""

from __future__ import annotations

import copy
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

from autocompress.errors import InputError

log = logging.getLogger(__name__)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside wrappers that compute the same, which the log is told of. InputError for a network of
    TorchScript, whose layers cannot be read or changed."""
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"model must be a network of torch.nn, but is one of TorchScript ({type(model).__name__}): "
                         "give the network that it was scripted or traced from, with its weights (state_dict())")
    inner = _inner(model)
    while inner is not None:
        log.warning("model: taking the network (%s) out of its wrapper (%s)", type(inner).__name__, _name(model))
        model, inner = inner, _inner(inner)
    return model


def _inner(model: nn.Module) -> nn.Module | None:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
        return model.module
    if _is_compiled(model):
        inner = model._orig_mod
        assert isinstance(inner, nn.Module)
        return inner
    children = [child for child in model.children() if any(True for _ in child.parameters())]
    if type(model).forward is nn.Module.forward and len(children) == 1 and not isinstance(model, nn.Sequential):
        return children[0]  # one that trains a network and cannot be called itself
    return None


def _is_compiled(model: nn.Module) -> bool:
    """By name: the class belongs to a part of torch that takes seconds to import."""
    return type(model).__name__ == "OptimizedModule" and "_orig_mod" in model._modules


def _name(model: nn.Module) -> str:
    return "torch.compile" if _is_compiled(model) else type(model).__name__


def copied(model: nn.Module) -> nn.Module:
    """A copy that shares nothing. Tensors that a weight was computed into, which torch refuses to copy, are taken as
    values, and a network of transformers returns no cache of keys and values, which is no tensor. InputError where the
    network holds what cannot be copied."""
    values = {id(value): value.detach().clone() for module in model.modules() for value in vars(module).values()
              if isinstance(value, Tensor) and not value.is_leaf}
    try:
        return _without_cache(_with_own_classes(copy.deepcopy(model, dict(values))))
    except Exception as error:  # the user's classes: anything can come
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"the network must be copyable by copy.deepcopy, but: {cause}. Take locks, open files and "
                         "generators out of its modules") from error


def _with_own_classes(model: nn.Module) -> nn.Module:
    """The network, in place, each of whose parametrised modules has a class of its own. torch keeps a computed weight
    as a property of a class that a deep copy shares with the user's module: whoever takes the parametrisation off the
    copy would take it off both."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            cls = type(module)
            members = {key: value for key, value in vars(cls).items() if key not in {"__dict__", "__weakref__"}}
            module.__class__ = type(cls.__name__, cls.__bases__, members)
    return model


def _without_cache(model: nn.Module) -> nn.Module:
    """The network, in place, whose parts are told by their configuration to return no cache of keys and values."""
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "use_cache", False) is True:
            config.use_cache = False
    return model


def with_plain_weights(model: nn.Module) -> nn.Module:
    """The network itself (eval mode), in place, with every reparametrised weight as a parameter of that value, and
    modules inside it taken out of their wrappers."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            inner = _inner(child) if _is_compiled(child) or isinstance(child, nn.DataParallel) else None
            if inner is not None:
                setattr(module, name, inner)
    for module in model.modules():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the older functions say that they are old
            for hook in list(module._forward_pre_hooks.values()):
                if isinstance(hook, WeightNorm):
                    remove_weight_norm(module, hook.name)
                elif isinstance(hook, SpectralNorm):
                    remove_spectral_norm(module, hook.name)
                elif isinstance(hook, prune.BasePruningMethod):
                    prune.remove(module, hook._tensor_name)  # type: ignore[attr-defined, no-untyped-call]
    for module in [parametrised for parametrised in model.modules() if parametrize.is_parametrized(parametrised)]:
        for name in list(module.parametrizations):  # type: ignore[arg-type, union-attr]
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return model
