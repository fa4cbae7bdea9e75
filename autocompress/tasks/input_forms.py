"""Data in the form in which a network takes it, where there is only one such form."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.tasks.samples import Samples, changed, pieces
from autocompress.tasks.splits import PIXELS, SPLITS, TOKENS, VALUES, Split, TaskData

log = logging.getLogger(__name__)


def fitted(data: TaskData, model: nn.Module) -> TaskData:
    """`data` as the network takes it: as given where that runs, else in the first other form that does.

    Whole numbers are tokens or values by what the network does with them, channels that are last are turned to the
    front, grey pictures gain or lose their further channels. What was done is logged; where nothing runs, the data is
    given back as it came, for `check_fits` to say why. InputError where tokens are beyond an embedding's table.
    """
    forms = []
    for form, said in _forms(data):
        forms.append(form)
        if _runs(model, form):
            if said:
                log.info("%s: %s", data.name, said)
            _check_tokens(form, model)
            return form
    for form in forms:
        _check_tokens(form, model)
    return data


def _forms(data: TaskData) -> Iterator[tuple[TaskData, str]]:
    """Each form with what is said of it; the data as given first, and nothing is said of that alone."""
    inputs, shape = data.train.inputs, data.input_shape
    whole = not inputs.dtype.is_floating_point
    if data.reading is None and whole and data.kind != PIXELS:
        table = f"inputs {inputs.dtype} {tuple(shape)}".replace("torch.", "")
        readings = [replace(data, reading=VALUES), replace(data, reading=TOKENS)]
        said = [f"{table} are values and are fed as float32", f"{table} are fed as int64, as they are"]
        if inputs.dtype == torch.int64:
            readings.reverse()
            said.reverse()
        yield from zip(readings, said, strict=True)
    else:
        yield data, ""
    if len(shape) == 3 and shape[2] in (1, 3, 4):
        yield (_changed(data, _channels_first), f"inputs {shape} are (H, W, C) and were turned to "
               "(C, H, W), as the network takes them")
    if len(shape) == 2:
        yield _changed(data, _with_a_channel), f"inputs {shape} were given one channel, as the network takes them"
        yield (_changed(data, _turned), f"inputs {shape} are (length, channels) and were turned "
               "to (channels, length), as the network takes them")
    if len(shape) == 3 and shape[0] == 3 and inputs.dtype == torch.uint8 and _is_grey(inputs):
        grey = _changed(data, _first_channel)
        mean, std = (tuple({sum(values) / len(values)}) for values in (data.mean, data.std))
        yield (replace(grey, mean=mean, std=std), f"the network takes one channel: of the three, which are equal, one "
               f"was taken, normalised with the averages {mean[0]:.3f} and {std[0]:.3f}")
    if len(shape) == 3 and shape[0] == 1:
        yield (_changed(data, _repeated), "the network takes three channels: the grey one was "
               "repeated")


def _changed(data: TaskData, change: Callable[[Tensor], Tensor]) -> TaskData:
    train, validation, test = (
        Split(changed(part.inputs, change), part.targets) for part in (data.train, data.validation, data.test))
    return replace(data, train=train, validation=validation, test=test)


def _channels_first(inputs: Tensor) -> Tensor:
    return inputs.permute(0, 3, 1, 2)


def _with_a_channel(inputs: Tensor) -> Tensor:
    return inputs[:, None]


def _turned(inputs: Tensor) -> Tensor:
    return inputs.permute(0, 2, 1)


def _first_channel(inputs: Tensor) -> Tensor:
    return inputs[:, :1]


def _repeated(inputs: Tensor) -> Tensor:
    return inputs.expand(-1, 3, -1, -1)


def _is_grey(inputs: Samples) -> bool:
    sample = inputs[:256]
    return bool((sample == sample[:, :1]).all())


def _runs(model: nn.Module, data: TaskData) -> bool:
    """Whether the network answers two samples with one row of numbers each."""
    with torch.no_grad(), evaluating(model):
        try:
            outputs = model(data.normalise(data.train.inputs[:2]))
        except Exception:  # the user's code: anything can come
            return False
    return not isinstance(outputs, Tensor) or outputs.ndim == 0 or len(outputs) == 2


def _check_tokens(data: TaskData, model: nn.Module) -> None:
    """InputError unless every token has a row in the tables that are indexed by the inputs themselves."""
    if data.kind != TOKENS:
        return
    sample = data.train.inputs[:2].long()
    sizes: list[int] = []

    def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args and isinstance(args[0], Tensor) and args[0].shape == sample.shape and torch.equal(args[0], sample):
            sizes.append(int(module.num_embeddings))  # type: ignore[arg-type]

    hooks = [module.register_forward_pre_hook(see) for module in model.modules()
             if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    try:
        with torch.no_grad(), evaluating(model):
            model(sample)
    except Exception:  # said by `check_fits`, or because these very tokens are beyond the table
        log.debug("the network does not take %s", tuple(sample.shape))
    finally:
        for hook in hooks:
            hook.remove()
    for name in SPLITS:
        ranges = [(int(part.min()), int(part.max())) for part in pieces(getattr(data, name).inputs)] if sizes else []
        least, most = min((low for low, _ in ranges), default=0), max((high for _, high in ranges), default=0)
        if sizes and not 0 <= least <= most < min(sizes):
            raise InputError(f"{data.name}, {name} split: tokens must be from 0 to {min(sizes) - 1}, the rows of the "
                             f"network's embedding, but they are from {least} to {most}")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The network in eval mode, and afterwards each module in its own again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
