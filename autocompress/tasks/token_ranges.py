"""Whether all tokens of a task have a row in the tables of a network that they index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.tasks.base import Task
from autocompress.tasks.splits import SPLITS
from autocompress.tensors.named import Inputs, sample_shapes

# Samples that are looked at in one piece.
ROWS = 4096


class Part(NamedTuple):
    """What a table reads of an input: all of it, or a view such as one of its columns.

    Args:
        name: of the input; see `_named`.
        size: of the view of one sample.
        strides: of the view, with the samples' first.
        offset: of the view's first number from the input's.
    """

    name: str
    size: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def of(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The part `(N, …)` of inputs `(N, …)`."""
        tensor = inputs[self.name].contiguous()
        return tensor.as_strided((len(tensor), *self.size), self.strides, tensor.storage_offset() + self.offset)


def embedded_rows(model: nn.Module, inputs: Inputs) -> dict[Part, int]:
    """Rows of the smallest table that each part of an input indexes as it is.

    Args:
        model: takes `inputs`; where it refuses them, what it indexed until then counts.
        inputs: two samples.
    """
    tokens = {name: tensor for name, tensor in _named(inputs).items()
              if not tensor.is_floating_point() and tensor.is_contiguous()}
    rows: dict[Part, int] = {}

    def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        for name, tensor in tokens.items() if args and isinstance(args[0], Tensor) else ():
            if _is_view(args[0], tensor):
                part = Part(name, tuple(args[0].shape[1:]), args[0].stride(),
                            int(args[0].storage_offset()) - int(tensor.storage_offset()))
                size = int(module.num_embeddings)  # type: ignore[arg-type]
                rows[part] = min(rows.get(part, size), size)

    hooks = [module.register_forward_pre_hook(see) for module in model.modules()
             if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    try:
        with torch.no_grad():
            model(inputs)
    except Exception:  # said where the answers are checked, or because these very tokens are beyond
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return rows


def _is_view(read: Tensor, tensor: Tensor) -> bool:
    """Whether samples `(N, …)` that are read are a part of each sample of a tensor `(N, …)`, in its memory."""
    return read.dtype == tensor.dtype and read.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr() \
        and read.shape[:1] == tensor.shape[:1] and read.stride()[:1] == tensor.stride()[:1]


def _named(inputs: Inputs) -> dict[str, Tensor]:
    """Inputs by name; the one tensor of a network under an empty name."""
    return {"": inputs} if isinstance(inputs, Tensor) else dict(inputs.items())


def require_rows(model: nn.Module, task: Task) -> None:
    """InputError where a token of any split is beyond the table that it indexes. `model` takes the task's inputs."""
    inputs = task.inputs("train", slice(0, 2))
    if all(tensor.is_floating_point() for tensor in _named(inputs).values()):
        return
    of_shapes = {str(sample_shapes(inputs)): embedded_rows(model, inputs)}
    for split in SPLITS if any(of_shapes.values()) else ():
        for rows in task.rows(split, ROWS):  # type: ignore[arg-type]
            inputs = task.inputs(split, rows)  # type: ignore[arg-type]
            piece, shapes = _named(inputs), str(sample_shapes(inputs))
            if shapes not in of_shapes:  # which part is embedded is told by places in the memory of a sample
                of_shapes[shapes] = embedded_rows(model, inputs[:2])
            for part, size in of_shapes[shapes].items():
                least, most = (int(each) for each in part.of(piece).aminmax())
                if least < 0 or most >= size:
                    of_name = f" of {part.name}" if part.name else ""
                    raise InputError(f"{task.name}, {split} split: tokens{of_name} must be from 0 to {size - 1}, the "
                                     f"rows of the network's embedding, but they are from {least} to {most}")
