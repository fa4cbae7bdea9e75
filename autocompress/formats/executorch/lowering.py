"""Making an ExecuTorch program of a traced network: XNNPACK's delegates, and portable operators for the rest."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autocompress.core.quiet import silent
from autocompress.errors import TrialError, cause_of
from autocompress.formats.executorch.loops import with_loops

INPUTS, OUTPUTS = "input_names", "output_names"
# What they log on being imported: libraries for GPUs, and files of other CPUs, that are not there.
LOGGERS = ("torchao", "torch.utils._pytree", "executorch")


def program_of(module: nn.Module, arguments: tuple[Tensor | Mapping[str, Tensor], ...], inputs: list[str],
               outputs: list[str]) -> bytes:
    """The bytes of a program. ExecuTorch knows ends by place: their names are what two further methods return.

    Args:
        module: what is exported.
        arguments: what it is called with, of one sample.
        inputs: names of its inputs, in order.
        outputs: names of its outputs, in order.

    Raises:
        TrialError: when torch or ExecuTorch cannot lower it.
    """
    with silent(*LOGGERS), torch.no_grad():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        names = {INPUTS: "\n".join(inputs), OUTPUTS: "\n".join(outputs)}
        try:
            lowered = to_edge_transform_and_lower(with_loops(torch.export.export(module, arguments)),
                                                  partitioner=[XnnpackPartitioner()], constant_methods=names)
            return bytes(lowered.to_executorch().buffer)
        except Exception as error:  # it raises many kinds
            raise TrialError(f"ExecuTorch cannot lower it: {cause_of(error)}") from error
