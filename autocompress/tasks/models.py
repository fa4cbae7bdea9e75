"""The model a user names, with its weights: built, loaded, and checked against the data."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import EnvironmentFault, InputError
from autocompress.tasks.base import Task
from autocompress.tasks.batch_task import BatchTask
from autocompress.tasks.cache import downloading
from autocompress.tasks.data_checks import check_normalisation
from autocompress.tasks.factory import call_factory, is_factory
from autocompress.tasks.fixed_batch import advice, fixed_number_of_samples
from autocompress.tasks.input_forms import evaluating, fitted
from autocompress.tasks.splits import TaskData
from autocompress.tasks.token_ranges import require_rows
from autocompress.tasks.vision import import_torchvision
from autocompress.tasks.weights import check_float32, load_weights_file
from autocompress.tasks.wrapped import copied, unwrapped, with_plain_weights
from autocompress.tensors.named import Inputs, NamedTensors, by_name, flat_outputs, with_names

MODEL_SPECS = ("torchvision:NAME", "timm:NAME", "hf:FOLDER", "path/to/file.py:factory")
_NAME_LENGTH = 80


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network in eval mode, float32, on the CPU, and its data as it takes it. `name` is fit for a folder's name."""

    model: nn.Module
    name: str
    # Content hash of the structure and every tensor of the state dict.
    fingerprint: str
    data: TaskData | None = None
    # The value of the metric that the weights' file says of itself, and under which key.
    claimed: tuple[str, float] | None = None


def load_model(
    spec: str | nn.Module, *, weights: Path | None = None, data: TaskData, trust_code: bool = True,
    weights_key: str | None = None, built: nn.Module | None = None,
) -> LoadedModel:
    """The network that `spec` names or is, with `weights` from a file (of several state dicts in it, that under
    `weights_key`); see `MODEL_SPECS`.

    Without `weights`, torchvision and timm models get the weights of their hub, if made for as many
    classes as the data has; a factory's network, or an nn.Module (copied), is taken as it is. Built
    with data.classes outputs and for the data's channels; `built` is what the factory has returned already.
    InputError when model, weights and data do not belong together, EnvironmentFault when a package or a download is
    missing.
    """
    if isinstance(spec, nn.Module):
        inner = unwrapped(spec)
        model, name = copied(inner), type(inner).__name__
    elif spec.startswith("torchvision:"):
        name = spec.partition(":")[2]
        model = _torchvision(name, pretrained=weights is None, data=data)
    elif spec.startswith("timm:"):
        name = spec.partition(":")[2]
        model = _timm(name, pretrained=weights is None, data=data)
    elif is_factory(spec):
        model = copied(unwrapped(built if built is not None else built_network(spec, trust_code=trust_code)))
        name = Path(spec.rpartition(":")[0]).stem
    else:
        raise InputError(f"model must be one of {', '.join(MODEL_SPECS)}, but got {spec!r}")
    model = check_float32(model, f"model {name}")
    claimed = None
    if weights is not None:
        claimed = load_weights_file(model, weights, data.classes, weights_key)
    model.eval()
    fingerprint = model_fingerprint(model)  # of what was given: what is computed from it may differ in the last digit
    model = with_plain_weights(model)
    data = fitted(data, model)
    check_normalisation(data)
    model = with_names(model, None, check_fits(model, data))
    return LoadedModel(model, safe_name(name), fingerprint, data, claimed)


def load_network(spec: str | nn.Module, task: Task, *, weights: Path | None = None, trust_code: bool = True,
                 weights_key: str | None = None) -> LoadedModel:
    """The network of a user's own task: an nn.Module (copied), or that of a factory, with `weights` from a file.

    A network that reads several tensors is called with them by the names of its `forward`. InputError when network and
    task do not belong together.
    """
    if isinstance(spec, str) and not is_factory(spec):
        raise InputError("model must be an nn.Module or path/to/file.py:factory where a task is given, but got "
                         f"{spec!r}")
    if not callable(getattr(task, "inputs", None)):
        raise InputError("task must be an autocompress.Task, or have the members of autocompress.tasks.base.Task, but "
                         f"is {type(task).__name__}: a function that --task names must return it")
    network = built_network(spec, trust_code=trust_code) if isinstance(spec, str) else spec
    inner = unwrapped(network)
    name = Path(spec.rpartition(":")[0]).stem if isinstance(spec, str) else type(inner).__name__
    model = check_float32(copied(inner), f"model {name}")
    claimed = None if weights is None else load_weights_file(model, weights, 0, weights_key)
    model.eval()
    fingerprint = model_fingerprint(model)
    model = with_plain_weights(model)
    if isinstance(task, BatchTask):
        task.read_by(inner)
    inputs = task.inputs("train", slice(0, 2))
    names = [*inputs] if isinstance(inputs, NamedTensors) else None
    require_rows(with_names(model, names, True), task)
    model = with_names(model, names, _check_answers(with_names(model, names, True), inputs, task.name))
    if isinstance(task, BatchTask):
        task.compare_with(model, fingerprint)
    return LoadedModel(model, safe_name(name), fingerprint, claimed=claimed)


def _check_answers(model: nn.Module, inputs: Inputs, name: str) -> bool:
    """InputError when a network refuses two samples of a task, or answers other than finite tensors of two rows.

    Returns:
        Whether it returns other than one tensor.
    """
    try:
        with torch.no_grad():
            outputs = model(inputs)
    except Exception as error:  # the user's code: anything can come
        cause, number = next(iter(str(error).splitlines()), "no message"), fixed_number_of_samples(model, inputs, error)
        remedy = _remedy_of_inputs(inputs) if number is None else f"Its {advice(number)}"
        raise InputError(f"the model must take the inputs of {name}, {_shown(inputs)}, but said: "
                         f"{type(error).__name__}: {cause[:300]}. {remedy}") from error
    if not isinstance(outputs, Tensor) and not [*outputs]:
        raise InputError("the model must return tensors, but returns none")
    if {1} == {len(tensor) if tensor.dim() else 0 for tensor in by_name(outputs).values()} and fixed_number_of_samples(
            model, inputs, None) == 1:
        raise InputError(f"the model must answer {len(inputs)} samples of {name} with as many rows, but answers with "
                         f"one. Its {advice(1)}")
    for key, tensor in by_name(outputs).items():
        if isinstance(inputs, NamedTensors) and key in inputs:
            raise InputError(f"inputs and outputs of a file must have different names, but the model reads and puts "
                             f"out {key!r}: give the output another one, such as {key}_out, in a module around it")
        if not tensor.dim() or len(tensor) != len(inputs):
            raise InputError(f"the model must answer {len(inputs)} samples of {name} with tensors whose first axis is "
                             f"the samples, but {key} has the shape {tuple(tensor.shape)}: leave out what is not of "
                             "samples, such as losses and constants, in a module around it")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"the model must answer samples of {name} with finite numbers, but in {key} some are NaN "
                             "or infinite: check its weights")
    return not isinstance(outputs, Tensor)


def _shown(inputs: Inputs) -> str:
    tensors = {"": inputs} if isinstance(inputs, Tensor) else dict(inputs.items())
    return ", ".join(f"{name} {tuple(tensor.shape)} {tensor.dtype}".strip().replace("torch.", "")
                     for name, tensor in tensors.items())


def _remedy_of_inputs(inputs: Inputs) -> str:
    """What to do about inputs that a network does not take."""
    tensors = [inputs] if isinstance(inputs, Tensor) else [*inputs.values()]
    if any(each.dim() == 4 and each.shape[3] in (1, 3, 4) and each.shape[1] > 4 for each in tensors):
        return "Pictures (N, H, W, C) must be turned to (N, C, H, W): arrays by transpose(0, 3, 1, 2)"
    if any(each.dtype == torch.uint8 for each in tensors):
        return "Bytes must be given as the numbers that the network was trained on, such as x.float() / 255"
    return "Give the task's inputs the names and shapes that its forward takes, by inputs= where others are meant"


def built_network(spec: str, *, trust_code: bool) -> nn.Module:
    """The network that a user's factory makes. InputError when it makes none."""
    network = call_factory(spec, what="model", trust_code=trust_code)
    if not isinstance(network, nn.Module):
        raise InputError(f"model: {spec} must return a torch.nn.Module, but returned {type(network).__name__}")
    return network


def _remedy(cause: str) -> str:
    if "required positional argument" in cause:
        return "A network has one input here: wrap one that has several in a module that makes the others itself"
    if "'indices'" in cause:
        return "Tokens must be int64 of shape (N, length)"
    return "Give data of the model's channels and size, or a factory that builds the model for this data"


class OneScoreError(InputError):
    """A network has one number for two classes, which the kind `classification` measures (`tasks/kinds`)."""


def check_fits(model: nn.Module, data: TaskData) -> bool:
    """Run two samples. InputError when the model refuses them or does not answer (2, classes) finite logits;
    OneScoreError where it answers two classes with one number.

    Returns:
        Whether it returns them inside something else, such as a dict.
    """
    inputs = data.normalise(data.train.inputs[:2])
    batch = f"{tuple(inputs.shape)} {inputs.dtype}".replace("torch.", "")
    with torch.no_grad(), evaluating(model):
        try:
            outputs = model(inputs)
        except Exception as error:  # the user's code: anything can come
            cause = next(iter(str(error).splitlines()), "no message")
            number = fixed_number_of_samples(model, inputs, error)
            raise InputError(
                f"the model must take the data's batches, {batch}, but said: {type(error).__name__}: {cause[:300]}. "
                f"{_remedy(cause) if number is None else f'Its {advice(number)}'}"
            ) from error
    expected = (len(inputs), data.classes)
    inside = not isinstance(outputs, Tensor)
    outputs = _the_logits(outputs, expected)
    if data.classes == 2 and outputs.shape in {(len(inputs),), (len(inputs), 1)}:
        raise OneScoreError(f"the model must answer {batch} with logits {expected}, but has one number for two classes")
    if tuple(outputs.shape) != expected:
        raise InputError(
            f"the model must answer {batch} with logits {expected}, one for each class of {data.name}, "
            f"but answered {tuple(outputs.shape)}"
        )
    if not bool(torch.isfinite(outputs).all()):
        raise InputError(
            f"the model must answer {batch} with finite logits, but some are NaN or infinite: check its weights"
        )
    return inside


def _the_logits(returned: Any, expected: tuple[int, int]) -> Tensor:
    """The one tensor in what a network returns. InputError where there are none or several."""
    try:
        tensors = flat_outputs(returned)
    except TypeError as error:
        raise InputError(f"the model must return one tensor of logits {expected}, but returned {error}") from error
    if len(tensors) != 1:
        raise InputError(f"the model must return one tensor of logits {expected}, but returned "
                         f"{', '.join(tensors) or 'none'}: say with --task, or an autocompress.Task, what several are")
    return next(iter(tensors.values()))


def model_fingerprint(model: nn.Module) -> str:
    """Content hash of the structure (as printed) and every tensor of the state dict."""
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def safe_name(text: str) -> str:
    """`text` as a name for a folder: ASCII letters, digits, `.`, `_`, `-`; no leading dot; at most 80 long."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain)[:_NAME_LENGTH].strip(".-") or "model"


def library_network(spec: str, outputs: int, channels: int) -> nn.Module:
    """The network that `torchvision:NAME` or `timm:NAME` names, with that many outputs and input channels, untrained.
    InputError where the library has none of that name, EnvironmentFault where it is not installed."""
    library, _, name = spec.partition(":")
    if library == "timm":
        network: nn.Module = _timm_library(name).create_model(name, pretrained=False, num_classes=outputs,
                                                              in_chans=channels)
        return network
    models = import_torchvision().models
    names = models.list_models(module=models)
    if name not in names:
        raise InputError(f"torchvision has no classification model {name!r}{_suggestion(name, names)}")
    return _with_channels(models.get_model(name, weights=None, num_classes=outputs), channels)


def _torchvision(name: str, *, pretrained: bool, data: TaskData) -> nn.Module:
    channels = data.input_shape[0]
    model = library_network(f"torchvision:{name}", data.classes, channels if not pretrained else 3)
    if not pretrained:
        return model
    models = import_torchvision().models
    default = models.get_model_weights(name).DEFAULT
    _check_hub(f"torchvision:{name}", len(default.meta["categories"]), channels, data)
    path = Path(torch.hub.get_dir()) / "checkpoints" / default.url.rpartition("/")[2]
    if not path.is_file():
        hint = f"put {path.name} into {path.parent}, or give a weights file"
        with downloading(default.url, f"the weights of {name}", hint):
            path.parent.mkdir(parents=True, exist_ok=True)
            prefix = path.stem.rpartition("-")[2]
            torch.hub.download_url_to_file(default.url, str(path), hash_prefix=prefix, progress=False)
    load_weights_file(model, path, data.classes)
    return model


def _timm_library(name: str) -> Any:
    """The package, which has a network of that name."""
    import_torchvision()  # timm imports it too
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise EnvironmentFault("timm models need the package timm, which is not installed: pip install timm") from error
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}{_suggestion(name, timm.list_models())}")
    return timm


def _timm(name: str, *, pretrained: bool, data: TaskData) -> nn.Module:
    channels = data.input_shape[0]
    if not pretrained:
        return library_network(f"timm:{name}", data.classes, channels)
    timm = _timm_library(name)
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise InputError(f"timm has no weights for {name!r}: give a weights file")
    _check_hub(f"timm:{name}", config.num_classes, channels, data)
    hub = importlib.import_module("huggingface_hub")
    cached = hub.try_to_load_from_cache(config.hf_hub_id or name, "model.safetensors")
    if isinstance(cached, str):
        model: nn.Module = timm.create_model(name, pretrained=False)
        load_weights_file(model, Path(cached), data.classes)
        return model
    hint = "fill its cache (HF_HOME) on a machine with network, or give a weights file"
    with downloading("https://huggingface.co", f"the weights of {name}", hint):
        model = timm.create_model(name, pretrained=True)
    return model


def _suggestion(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3)
    return f": did you mean {' or '.join(close)}?" if close else ""


def _check_hub(spec: str, classes: int, channels: int, data: TaskData) -> None:
    if classes != data.classes or channels != 3:
        raise InputError(
            f"the hub's weights of {spec} tell {classes} classes apart on 3 channels, but {data.name} has "
            f"{data.classes} classes and {channels} channels: give a weights file trained on this data"
        )


def _with_channels(model: nn.Module, channels: int) -> nn.Module:
    """Rebuild the first convolution for that many input channels, when it has another number."""
    first = next(((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first[1].in_channels == channels:
        return model
    name, old = first
    new = nn.Conv2d(
        channels, old.out_channels, old.kernel_size, old.stride, old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None, padding_mode=old.padding_mode,
    )
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, new)
    return model
