"""Filling a network with the weights of a file, and checking that they are weights of that network."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autocompress.errors import InputError
from autocompress.tasks.checkpoint import SAVE_HINT, read_checkpoint
from autocompress.tasks.classification.claimed import claimed_value
from autocompress.tasks.state_dict import Candidate, candidates, distinct, is_counter, networks

log = logging.getLogger(__name__)

_STATISTICS = ("running_mean", "running_var")
_NAMED = 5


def load_weights_file(model: nn.Module, path: Path, classes: int,
                      key: str | None = None) -> tuple[str, float] | None:
    """Fill `model` from a checkpoint: `.safetensors`, or anything that torch.save wrote, wrapped as it may be.

    Where several dicts of the file fit the network, `key` chooses one; without it an average of weights (EMA, SWA) goes
    before the raw weights, as in timm's and torchvision's own scripts, and what was taken is logged. InputError when
    none fits, with what each lacks, and when two fit equally well. `classes` words the commonest misfit: weights
    trained for another number of classes. Returns the score that the checkpoint says of itself, under its key.
    """
    content = read_checkpoint(path)
    fitting = candidates(content, model.state_dict())
    if key is not None:
        named = [candidate for candidate in fitting if candidate.named(key)]
        if not named:
            labels = ", ".join(repr(c.label) for c in fitting if c.label) or "none"
            raise InputError(f"weights: {path} must hold a state dict under the key {key!r}, but those with tensors of "
                             f"this network are under: {labels}")
        fitting = named
    if not fitting:
        raise InputError(f"weights: {path} must hold a state dict of this network, but {_content(content)}")
    selected = fitting[0] if not fitting[0].fits else _chosen(fitting, path)
    origin = f"{path} ({selected.label})" if selected.label else str(path)
    try:
        put_weights(model, selected.tensors, origin, classes)
    except InputError as error:
        others = [candidate for candidate in fitting if candidate is not selected and candidate.matches > 1]
        if selected.fits or not others:
            raise
        raise InputError(f"{error}. {_compared(others)}") from None
    _say(selected, path)
    return claimed_value(content)


def _chosen(fitting: list[Candidate], path: Path) -> Candidate:
    """The one candidate to take of those that fit. InputError when two of the same rank hold other values."""
    different = distinct([candidate for candidate in fitting if candidate.fits])
    averaged = [candidate for candidate in different if candidate.averaged]
    best = averaged or different
    if len(best) > 1:
        labels = " and ".join(repr(candidate.label or "the file itself") for candidate in best[:_NAMED])
        raise InputError(f"weights: {path} must hold one state dict of this network, but {labels} fit alike and hold "
                         f"other values: choose one with --weights-key {best[0].label} (weights_key)")
    if averaged and len(different) > 1:
        raw = next(candidate for candidate in different if not candidate.averaged)
        log.warning("%s: took the averaged weights under %r, not the raw ones under %r; --weights-key %s takes those",
                    path, best[0].label, raw.label or "the file itself", raw.label or raw.prefix or '""')
    return best[0]


def _say(candidate: Candidate, path: Path) -> None:
    done = [f"took {len(candidate.tensors)} tensors"]
    done += [f"under {'/'.join(candidate.keys)!r}"] if candidate.keys else []
    done += [f"without the prefix {candidate.prefix!r}"] if candidate.prefix else []
    done += [f"with the prefix {candidate.added!r} put before their names"] if candidate.added else []
    done += ["(an average over the training)"] if candidate.averaged else []
    more = [name for name in candidate.left if not is_counter(name)]
    done += [f"and left {_named(more)}"] if more else []
    if len(done) > 1:
        log.info("%s: %s", path, " ".join(done))


def _content(content: object) -> str:
    whole = networks(content)
    if whole:
        return (f"holds a whole pickled network ({whole[0]}), which cannot be read without running its code. Save "
                f"tensors only: {SAVE_HINT}")
    if isinstance(content, dict):
        keys = ", ".join(str(key) for key in list(content)[:_NAMED]) or "nothing"
        return f"holds {keys} and no tensor with a name of the network. Save tensors only: {SAVE_HINT}"
    return f"holds {type(content).__name__}. Save tensors only: {SAVE_HINT}"


def _compared(others: list[Candidate]) -> str:
    return "Also in the file: " + "; ".join(
        f"{candidate.label or 'the file itself'} with {candidate.matches} matching tensors, {len(candidate.missing)} "
        f"missing, {len(candidate.misshaped)} of another shape, {len(candidate.unexpected)} unexpected"
        for candidate in others[:3])


def put_weights(model: nn.Module, weights: dict[str, Tensor], origin: str, classes: int) -> None:
    """Copy `weights` into the model, as float32 where they are floats.

    InputError names the first five names or shapes that do not fit, tensors of complex or integer type
    where the model has floats, and tensors with NaN or infinite values (see `_not_finite`). `classes` words
    the commonest misfit: weights trained for another number of classes.
    """
    state = model.state_dict()
    missing = [n for n in state if n not in weights and not is_counter(n) and state[n].is_floating_point()]
    unexpected = [n for n in weights if n not in state]
    if missing or unexpected:
        unmatched = {"missing": missing, "unexpected": unexpected}
        texts = "; ".join(f"{what} {_named(names)}" for what, names in unmatched.items() if names)
        raise InputError(f"{origin} must be weights of this model, but there are names {texts}")
    shapes = {n: (tuple(state[n].shape), tuple(t.shape)) for n, t in weights.items() if state[n].shape != t.shape}
    if shapes:
        first = list(shapes.items())[:_NAMED]
        texts = "; ".join(f"{name} {needed} against {held} in the file" for name, (needed, held) in first)
        heads = {held[0] for needed, held in shapes.values() if needed and held and needed[0] == classes != held[0]}
        for_classes = f" (weights for {heads.pop()} classes, data with {classes}?)" if len(heads) == 1 else ""
        raise InputError(f"{origin} must have the model's shapes, but {texts}{for_classes}")
    packed = [n for n, t in weights.items() if t.is_quantized or t.layout != torch.strided or t.device.type == "meta"]
    if packed:
        raise InputError(f"{origin} must hold plain float tensors, but {_named(packed)} are quantised, sparse or "
                         "without values: bring the float weights")
    refused = [n for n, t in weights.items() if state[n].is_floating_point() and not t.is_floating_point()]
    if refused:
        kinds = ", ".join(sorted({str(weights[n].dtype) for n in refused}))
        raise InputError(f"{origin} must hold floating-point weights, but {_named(refused)} are {kinds}")
    bad = _not_finite(model, weights)
    if bad:
        raise InputError(f"{origin} must hold finite weights, but {_named(bad)} contain NaN or infinity")
    converted = {str(t.dtype) for n, t in weights.items() if t.is_floating_point() and t.dtype != torch.float32}
    if converted:
        log.warning("%s: converted weights from %s to float32", origin, ", ".join(sorted(converted)))
    model.load_state_dict({**state, **weights})


def _not_finite(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the model's tensors that hold NaN or, but for buffers that are no statistics, infinite values: masks of
    attention are buffers of minus infinity."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    masks = {name for name in tensors if name not in parameters and not name.endswith(_STATISTICS)}
    return [name for name, tensor in tensors.items() if tensor.is_floating_point() and not bool(
        (~tensor.isnan() if name in masks else torch.isfinite(tensor.float())).all())]


def check_float32(model: nn.Module, origin: str) -> nn.Module:
    """The model in float32 on the CPU. InputError when it holds weights without values, complex, or NaN or infinite
    ones."""
    state = model.state_dict()
    empty = [n for n, t in state.items() if is_lazy(t) or t.is_meta]
    if empty:
        raise InputError(f"{origin} must have weights with values, but {_named(empty)} have none yet: call a network "
                         "of lazy layers once with data, and load the weights of one that is on the device meta")
    wrong = [n for n, t in state.items() if t.is_complex()]
    if wrong:
        raise InputError(f"{origin} must have real weights, but {_named(wrong)} are complex: keep real and imaginary "
                         "part apart (torch.view_as_real), and compute with both")
    bad = _not_finite(model, state)
    if bad:
        raise InputError(f"{origin} must have finite weights, but {_named(bad)} contain NaN or infinity")
    return model.float().cpu()


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
