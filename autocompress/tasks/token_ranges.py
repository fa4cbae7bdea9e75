"""Whether all tokens of a task have a row in the tables of a network that they index."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.tasks.base import Task
from autocompress.tasks.splits import SPLITS
from autocompress.tensors.named import Inputs

# Samples that are looked at in one piece.
ROWS = 4096


def embedded_rows(model: nn.Module, inputs: Inputs) -> dict[str, int]:
    """Rows of the smallest table that each input indexes as it is, by its name; see `_named`.

    Args:
        model: takes `inputs`; where it refuses them, what it indexed until then counts.
        inputs: two samples.
    """
    places = {tensor.data_ptr(): name for name, tensor in _named(inputs).items() if not tensor.is_floating_point()}
    rows: dict[str, int] = {}

    def see(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        name = places.get(given[0].data_ptr()) if given and isinstance(given[0], Tensor) else None
        if name is not None:
            size = int(module.num_embeddings)  # type: ignore[arg-type]
            rows[name] = min(rows.get(name, size), size)

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


def _named(inputs: Inputs) -> dict[str, Tensor]:
    """Inputs by name; the one tensor of a network under an empty name."""
    return {"": inputs} if isinstance(inputs, Tensor) else dict(inputs.items())


def require_rows(model: nn.Module, task: Task) -> None:
    """InputError where a token of any split is beyond the table that it indexes. `model` takes the task's inputs."""
    inputs = task.inputs("train", slice(0, 2))
    if all(tensor.is_floating_point() for tensor in _named(inputs).values()):
        return
    rows = embedded_rows(model, inputs)
    for split in SPLITS if rows else ():
        for start in range(0, task.samples(split), ROWS):  # type: ignore[arg-type]
            piece = _named(task.inputs(split, slice(start, start + ROWS)))  # type: ignore[arg-type]
            for name, size in rows.items():
                least, most = (int(each) for each in piece[name].aminmax())
                if least < 0 or most >= size:
                    of_name = f" of {name}" if name else ""
                    raise InputError(f"{task.name}, {split} split: tokens{of_name} must be from 0 to {size - 1}, the "
                                     f"rows of the network's embedding, but they are from {least} to {most}")
