"""A network as torch's operators: exported for so many samples, with the name of every parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from autocompress.core.quiet import silent
from autocompress.errors import TrialError, cause_of
from autocompress.formats.base import INPUT
from autocompress.tensors.named import flat_outputs

Example = Tensor | Mapping[str, Tensor]
LOGGERS = ("torch.export", "torch._dynamo", "torch.fx.experimental.symbolic_shapes")


@dataclass(frozen=True)
class Traced:
    """An exported network. `constants`: values by the name of the node that stands for them; `keys`: which of them are
    parameters, by key of the state dict; `inputs`: names of the file's inputs by node; `outputs`: names of its
    outputs, in order."""

    program: ExportedProgram
    constants: dict[str, np.ndarray]
    keys: dict[str, str]
    inputs: dict[str, str]
    outputs: tuple[str, ...]

    @property
    def nodes(self) -> list[fx.Node]:
        """Nodes in order."""
        return list(self.program.graph.nodes)


def samples_of(example: Example, count: int) -> Example:
    """The first sample of an example, `count` times."""
    copied: Example = pytree.tree_map(
        lambda tensor: tensor[:1].expand(count, *tensor.shape[1:]).contiguous(), example)
    return copied


def trace(network: nn.Module, example: Example, samples: int = 1) -> Traced:
    """Export a network (eval mode, norms folded) for so many samples.

    Raises:
        TrialError: when torch cannot export it.
    """
    with _quiet():
        arguments = samples_of(example, samples)
        outputs = tuple(flat_outputs(network(arguments)))
        program = torch.export.export(network, (arguments,))
    signature = program.graph_signature
    keys = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = {node: program.state_dict[key] if key in program.state_dict else program.constants[key]
                 for node, key in keys.items()}
    constants |= {node: program.constants[key] for node, key in
                  signature.inputs_to_lifted_tensor_constants.items()}
    names = [*example] if isinstance(example, Mapping) else [INPUT]
    return Traced(program, {node: tensor.detach().numpy() for node, tensor in constants.items()}, dict(keys),
                  dict(zip(signature.user_inputs, names, strict=True)), outputs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Run the exporter without gradients and silently; a failure is a TrialError with its cause."""
    try:
        with silent(*LOGGERS), torch.no_grad():
            yield
    except Exception as error:  # the exporter raises many kinds
        raise TrialError(f"torch.export cannot export it: {cause_of(error)}") from error
