"""The network of a task that is named by its kind, before its data are known."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autocompress.errors import InputError
from autocompress.tasks.factory import is_factory
from autocompress.tasks.hugging_face import is_hugging_face, load_hugging_face
from autocompress.tasks.models import MODEL_SPECS, built_network
from autocompress.tasks.preparation import Preparation, preparation_of
from autocompress.tasks.wrapped import unwrapped


@dataclass(frozen=True, eq=False)
class GivenNetwork:
    """A network that a user gives, as it is.

    Args:
        model: the network.
        name: what it is called, such as the name of its file or folder.
        tokenizer: what it brings to make tokens of text.
        preparation: how its weights say that pictures are prepared.
    """

    model: nn.Module
    name: str
    tokenizer: Any = None
    preparation: Preparation | None = None

    @property
    def arguments(self) -> dict[str, bool]:
        """Names of the tensors that `forward` takes, in order, and whether each must be given."""
        return arguments_of(self.model)


def given_network(spec: Any, *, trust_code: bool) -> GivenNetwork:
    """The network that `spec` names or is. InputError where a task of a kind cannot be of it."""
    if is_hugging_face(spec):
        loaded = load_hugging_face(spec)
        return GivenNetwork(loaded.model, loaded.name, loaded.tokenizer, loaded.preparation)
    if isinstance(spec, nn.Module):
        model = unwrapped(spec)
        return GivenNetwork(model, type(model).__name__, None, preparation_of(model, None))
    if is_factory(spec):
        model = unwrapped(built_network(spec, trust_code=trust_code))
        return GivenNetwork(model, Path(spec.rpartition(":")[0]).stem, None, preparation_of(model, None))
    raise InputError(f"model must be one of {', '.join(MODEL_SPECS)}, but got {spec!r}")


def arguments_of(model: nn.Module) -> dict[str, bool]:
    """See `GivenNetwork.arguments`."""
    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return {}
    return {name: parameter.default is parameter.empty for name, parameter in parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)}
