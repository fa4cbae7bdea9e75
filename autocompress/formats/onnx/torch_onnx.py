"""torch's ONNX exporter: quiet, and with its errors in one sentence.

It prints pages, in colours, and raises errors of many kinds around the one that tells the operation. Here a failure is
a `TrialError` that names the innermost cause and the line of the network's own code that led to it.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
from torch import nn

from autocompress.errors import TrialError, cause_of
from autocompress.formats.onnx.free_batch import free_length

INPUT, OUTPUT = "input", "output"
FIXED_SAMPLES = ("the number of samples must stay free, but forward() makes a fixed number of it: use x.shape[0] as it "
                 "is, not int(x.shape[0]), a written batch size or a list of as many tensors")
LOGGERS = ("torch.onnx", "torch.export", "torch._dynamo", "torch.fx.experimental.symbolic_shapes", "onnxscript",
           "onnx_ir")


def plain_export(model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> bytes:
    """What `torch.onnx.export` makes of `model` (eval mode; input `(N, *input_shape)`, N free) by default: the file
    that a user has without us. TrialError where it fails."""
    with exporting():
        exported = torch.onnx.export(model, (example(input_shape, dtype),), dynamo=True, verbose=False,
                                     dynamic_shapes=({0: torch.export.Dim("batch")},), input_names=[INPUT],
                                     output_names=[OUTPUT])
        assert exported is not None
        data: bytes = exported.model_proto.SerializeToString()
        return data


def example(input_shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """What the network is traced with: of two samples, because one is taken for a size that never changes."""
    return torch.zeros(2, *input_shape, dtype=dtype)


@contextmanager
def exporting() -> Iterator[None]:
    """No gradients, nothing on the screen, and whatever fails is a TrialError with its cause."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), torch.no_grad(), free_length(), redirect_stdout(io.StringIO()), \
                redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except TrialError:
        raise
    except Exception as error:  # the exporter raises many kinds
        cause = FIXED_SAMPLES if "Constraints violated (batch)" in str(error) else cause_of(error)
        raise TrialError(f"torch.export or torch.onnx cannot export it: {cause}") from error
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
