"""What a shipped file must answer: the compressed network's own answers in torch, for samples that ship with it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from autocompress.artifact.samples import samples_to_ship
from autocompress.core.evaluation import Evaluation
from autocompress.core.plan import Plan
from autocompress.errors import StorageError
from autocompress.formats.base import Runtime
from autocompress.study.file_writer import as_arrays
from autocompress.study.workbench import Workbench
from autocompress.tensors.named import Inputs, by_name

# Who gave the answers: the network in torch, or the file where the network's weights are gone.
NETWORK, FILE = "network", "file"
# The largest deviation of a file from the network in torch whose integer weights it holds: what integer activations
# may come to. A file that deviates more computes something else.
MOST_DEVIATION = 0.25


def samples_of(bench: Workbench) -> Inputs:
    """The calibration inputs that ship with a network, the first of those that all candidates were calibrated on."""
    inputs: Inputs = bench.network.calibration[:samples_to_ship(bench.network.sample_shape)]
    return inputs


def expected_answers(bench: Workbench, plan: Plan, evaluation: Evaluation, inputs: Inputs,
                     runtime: Runtime, executed: nn.Module | None = None) -> tuple[dict[str, np.ndarray], str]:
    """The answers of a candidate's network in torch, its activations in float.

    Args:
        bench: of the study.
        plan: the candidate's.
        evaluation: that its file comes from.
        inputs: `(N, …)`.
        runtime: of the file, which answers where the weights of the network are not at hand.
        executed: the network that the file holds, where it is not the candidate's.

    Returns:
        Arrays by name of the output, and who gave them, `NETWORK` or `FILE`.
    """
    if executed is None:
        try:
            executed = bench.network.executed(bench.evaluator.network_of(plan, evaluation))
        except StorageError:
            return dict(runtime.run(as_arrays(inputs))), FILE
    with torch.no_grad():
        outputs = by_name(executed.eval()(inputs))
    return {name: tensor.numpy() for name, tensor in outputs.items()}, NETWORK
