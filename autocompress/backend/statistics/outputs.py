"""The meaning of a network's outputs, and its scores as tensors: the torch half of `autocompress.core.answers`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autocompress.core.answers import LEAST, LEAST_INDEPENDENT, Meaning, recognise
from autocompress.core.batch_sizes import rows_at_once

BATCH = 64
_RESHAPES = ("View", "Squeeze", "Unsqueeze", "Reshape", "Clone", "Alias", "Permute", "Transpose", "T")
"""Names, as autograd has them, of operations between a sigmoid and the output that change no value."""


@dataclass(frozen=True)
class Answers:
    """Makes scores, whose softmax is the distribution over the classes, of the outputs of a network."""

    meaning: Meaning = "scores"

    def scores(self, outputs: Tensor) -> Tensor:
        """Outputs `(N, classes)` as scores, float32; differentiable."""
        outputs = outputs.float()
        if self.meaning == "probabilities":
            return outputs.clamp_min(LEAST).log()
        if self.meaning == "independent probabilities":
            return outputs.clamp(LEAST_INDEPENDENT, 1 - LEAST_INDEPENDENT).logit()
        return outputs


AS_SCORES = Answers()
"""For networks that put out scores."""


def recognised(model: nn.Module, inputs: Tensor) -> Answers:
    """The meaning of what `model` (eval mode) puts out for calibration `inputs` `(N, …)`."""
    with torch.no_grad():
        rows = rows_at_once(tuple(inputs.shape[1:]), BATCH)
        outputs = torch.cat([model(batch) for batch in torch.split(inputs, rows)])
    return Answers(recognise(outputs.float().numpy(), _ends_in_sigmoid(model, inputs[:2])))


def _ends_in_sigmoid(model: nn.Module, inputs: Tensor) -> bool:
    """Whether the last operation that computes values is a sigmoid, by the graph that autograd keeps."""
    with torch.enable_grad():
        step = model(inputs).grad_fn
    while step is not None and step.name().startswith(_RESHAPES) and step.next_functions:
        step = step.next_functions[0][0]
    return step is not None and step.name().startswith(("SigmoidBackward", "HardsigmoidBackward"))
