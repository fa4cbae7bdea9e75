"""What a network puts out for calibration data, and by which operation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autocompress.core.batch_sizes import rows_of
from autocompress.tensors.footprint import footprint
from autocompress.tensors.named import Inputs, by_name

BATCH = 64
# Names, as autograd has them, of operations between a sigmoid and the output that change no value.
_RESHAPES = ("View", "Squeeze", "Unsqueeze", "Reshape", "Clone", "Alias", "Permute", "Transpose", "T")


@torch.no_grad()
def outputs_of(model: nn.Module, inputs: Inputs) -> Inputs:
    """Outputs `(N, …)` of `model` (eval mode) for all of `inputs`, in batches."""
    rows = rows_of(footprint(model, inputs).live, BATCH)
    outputs: Inputs = torch.cat([model(batch) for batch in torch.split(inputs, rows)])  # type: ignore[no-untyped-call]
    return outputs


def ends_in_sigmoid(model: nn.Module, inputs: Inputs) -> frozenset[str]:
    """Names of the outputs of `model` whose last operation that computes values is a sigmoid, by the graph that
    autograd keeps."""
    with torch.enable_grad():
        outputs = by_name(model(inputs[:2]))
    return frozenset(name for name, output in outputs.items() if _from_sigmoid(output))


def _from_sigmoid(output: Tensor) -> bool:
    step = output.grad_fn
    while step is not None and step.name().startswith(_RESHAPES) and step.next_functions:
        step = step.next_functions[0][0]
    return step is not None and step.name().startswith(("SigmoidBackward", "HardsigmoidBackward"))
