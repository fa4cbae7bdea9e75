"""The network and the task that a user names by a kind, a source and a metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.tasks.augmentation import Augmentation
from autocompress.tasks.cache import from_home
from autocompress.tasks.data import load_data
from autocompress.tasks.factory import call_factory, is_factory, load_object
from autocompress.tasks.input_forms import evaluating
from autocompress.tasks.kinds.asked_metric import with_metric
from autocompress.tasks.kinds.base import Kind, KindContext
from autocompress.tasks.kinds.classification import classification
from autocompress.tasks.kinds.detection import detection
from autocompress.tasks.kinds.embedding import embedding
from autocompress.tasks.kinds.inputs import InputReader, input_reader
from autocompress.tasks.kinds.names import (
    CLASSIFICATION,
    DETECTION,
    EMBEDDING,
    REGRESSION,
    SEGMENTATION,
    TEXT,
)
from autocompress.tasks.kinds.network import GivenNetwork, given_network
from autocompress.tasks.kinds.regression import regression
from autocompress.tasks.kinds.segmentation import segmentation
from autocompress.tasks.kinds.task import KindTask
from autocompress.tasks.kinds.text import text
from autocompress.tasks.models import LoadedModel, library_network, load_network, safe_name
from autocompress.tasks.picture_cache import DEFAULT_BYTES
from autocompress.tasks.preparation import Preparation, preparation_of
from autocompress.tasks.sources.base import TARGET, Source, SourceContext
from autocompress.tasks.sources.classified import classified_source
from autocompress.tasks.sources.opened import open_source
from autocompress.tasks.sources.python_data import source_of
from autocompress.tasks.sources.specs import source_kind
from autocompress.tasks.weights import check_float32, load_weights_file
from autocompress.tasks.wrapped import copied
from autocompress.tensors.named import flat_outputs

_KINDS: dict[str, Kind] = {CLASSIFICATION: classification, REGRESSION: regression, EMBEDDING: embedding,
                           SEGMENTATION: segmentation, DETECTION: detection, TEXT: text}
# Kinds whose targets name classes.
_OF_CLASSES = (CLASSIFICATION, EMBEDDING, TEXT)
_LIBRARIES = ("torchvision:", "timm:")


@dataclass(frozen=True, eq=False)
class KindRequest:
    """What a user says of a task that is named by its kind: the settings of a search of these names."""

    kind: str
    model: Any
    data: Any
    weights: Path | None = None
    weights_key: str | None = None
    metric: Any = None
    decode: Any = None
    seed: int = 0
    preparation: Preparation = field(default_factory=Preparation)
    reading: str | None = None
    data_root: Path | None = None
    trust_code: bool = True
    cache_bytes: int = DEFAULT_BYTES
    augment: Augmentation | None = None


def kind_task(request: KindRequest) -> tuple[LoadedModel, KindTask]:
    """The network and the task.

    Raises:
        InputError: where network, source, metric and kind do not go together.
        EnvironmentFault: where a package that is needed is missing.
    """
    network, source = _network_and_source(request)
    model = check_float32(copied(network.model), f"model {network.name}")
    claimed = None if request.weights is None else load_weights_file(model, request.weights, source.classes or 0,
                                                                      request.weights_key)
    model.eval()
    batch = _first_two(source)
    reader = input_reader(source, network.arguments, model, batch, request.reading)
    returned = _returned(model, reader, batch, source.name)
    decode = load_object(request.decode, what="--decode", trust_code=request.trust_code, call=False)
    context = KindContext(source, model, returned, _outputs(returned), batch, decode)
    facts = _KINDS[request.kind](context)
    metric = request.metric
    if isinstance(metric, str) and is_factory(metric):
        metric = load_object(metric, what="--metric", trust_code=request.trust_code, call=False)
    task = KindTask(source, reader, facts, with_metric(facts, metric), request.cache_bytes,
                    request.augment)
    loaded = load_network(model, task, trust_code=request.trust_code)
    return replace(loaded, name=safe_name(network.name), claimed=claimed), task


def _network_and_source(request: KindRequest) -> tuple[GivenNetwork, Source]:
    """The network as it is given, and the samples. A library builds its network for as many outputs as targets name."""
    if not isinstance(request.model, str) or not request.model.startswith(_LIBRARIES):
        network = given_network(request.model, trust_code=request.trust_code)
        return network, _source(request, network)
    if request.kind not in (CLASSIFICATION, REGRESSION) or request.weights is None:
        raise InputError(f"model {request.model} can be given with weights for classification and regression; for "
                         f"--task {request.kind} give the network as path/to/file.py:factory")
    name = request.model.partition(":")[2]
    said = preparation_of(request.model, request.weights)
    source = _source(request, GivenNetwork(nn.Identity(), name, None, said))
    sample = source.splits["train"][0]
    if TARGET not in sample or len(source.inputs) != 1:
        raise InputError(f"model {request.model} needs samples with one input and a target, but {source.name} has "
                         f"inputs {', '.join(source.inputs)}{'' if TARGET in sample else ' and no targets'}")
    outputs = source.classes or sample[TARGET].numel()
    model = library_network(request.model, outputs, sample[source.inputs[0]].shape[0])
    return GivenNetwork(model, name, None, said), source


def _source(request: KindRequest, network: GivenNetwork) -> Source:
    preparation = request.preparation.completed(network.preparation)
    arguments = {} if isinstance(network.model, nn.Identity) else network.arguments
    context = SourceContext(request.seed, preparation, arguments, network.tokenizer, request.kind in _OF_CLASSES)
    data = from_home(request.data) if isinstance(request.data, str) else request.data
    if source_kind(data) is not None:
        return open_source(data, context)
    if not isinstance(data, str):
        return source_of(data, "data", context)
    if is_factory(data):
        returned = call_factory(data, what="data", trust_code=request.trust_code)
        return source_of(returned, Path(data.rpartition(":")[0]).stem, context)
    return classified_source(load_data(data, root=request.data_root, seed=request.seed, trust_code=request.trust_code,
                                       preparation=preparation, cache_bytes=request.cache_bytes))


def _first_two(source: Source) -> dict[str, Tensor]:
    """Two training samples as a batch."""
    train = source.splits["train"]
    samples = [train[0], train[min(1, len(train) - 1)]]
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def _returned(model: nn.Module, reader: InputReader, batch: Mapping[str, Tensor], name: str) -> Any:
    """What `forward` returns for two samples."""
    inputs = reader.read(reader.stored(batch))
    with torch.no_grad(), evaluating(model):
        try:
            return model(inputs) if reader.alone else model(**inputs)
        except Exception as error:  # the user's code: anything can come
            cause = next(iter(str(error).splitlines()), "no message")
            told = {"": inputs} if reader.alone else inputs
            shapes = ", ".join(f"{key} {tuple(tensor.shape)} {tensor.dtype}".strip().replace("torch.", "")
                               for key, tensor in told.items())
            raise InputError(f"the model must take the inputs of {name}, {shapes}, but said: {type(error).__name__}: "
                             f"{cause[:300]}") from error


def _outputs(returned: Any) -> dict[str, Tensor]:
    try:
        outputs = flat_outputs(returned)
    except TypeError as error:
        raise InputError(f"the model must return tensors, but returned {error}") from error
    if not outputs:
        raise InputError("the model must return tensors, but returned none")
    return outputs
