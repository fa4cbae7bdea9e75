"""Tracing by `torch.export`, and an error that names the operation and the user's line where it fails."""

from __future__ import annotations

import io
import logging
import sys
import traceback
import warnings
from contextlib import redirect_stderr
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from autocompress.core.quiet import quiet
from autocompress.errors import InputError
from autocompress.tensors.named import Inputs

# The logger that complains where tracing fails.
_NOISY = "torch.fx.experimental.symbolic_shapes"
_DATA_DEPENDENT = ("data-dependent", "unbacked", "GuardOnDataDependentSymNode", "_local_scalar_dense")
# Folders of code that is not the user's.
_FOREIGN = (Path(torch.__file__).parent, Path(__file__).parents[1], Path(sys.base_prefix), Path(sys.prefix))


def exported(model: nn.Module, example: Inputs) -> torch.export.ExportedProgram:
    """Return the exported graph of `model` (eval mode) for `example` `(N, …)`. InputError where it cannot be traced."""
    with warnings.catch_warnings(), torch.no_grad(), quiet(_NOISY, logging.CRITICAL), \
            redirect_stderr(io.StringIO()):  # where it fails, torch prints its graph
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(model, (example,))
        except Exception as error:  # torch.export raises many kinds
            raise InputError(untraceable(error)) from error
    if any("wrap_with_autocast" in str(node.target) for node in program.graph.nodes):
        raise InputError("the network must compute in float32, but its forward holds a block of torch.autocast, on or "
                         "off: put autocast around the call in training, and take it out of forward")
    return program


def untraceable(error: Exception) -> str:
    """Return a message that says what must hold, which operation failed and where, and what to do."""
    cause = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    where = _users_line(error)
    if _packs_sequences(error):
        return ("the network must be traceable by torch.export, but packed sequences"
                f"{f', as at {where},' if where else ''} are not: give the recurrent layer the padded batch, and take "
                "each sample's answer at its last step, by its length (torch.gather); of two directions make a layer "
                "each, the second of which reads the samples turned around")
    if not any(mark in f"{type(error).__name__} {cause}" for mark in _DATA_DEPENDENT):
        return f"the network must be traceable by torch.export, but{f' at {where}' if where else ''}: {cause}"
    return ("the network must be traceable by torch.export, which needs the same operations for every input, but what "
            f"it computes decides {f'at {where}' if where else 'in its forward'} what it does next ({cause}). Compute "
            "both ways and choose with torch.where, replace .item(), int() and tolist() by tensor operations, or leave "
            "that part out of the network that is given")


def _packs_sequences(error: BaseException) -> bool:
    """Return whether the traceback leads through a packed sequence, or the function that makes one."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(frame.f_code is pack_padded_sequence.__code__ or
               any(isinstance(value, PackedSequence) for value in frame.f_locals.values()) for frame in frames)


def _users_line(error: BaseException) -> str:
    """Return the innermost line of the user's code in the traceback: `FILE:LINE` and its text; nothing without one."""
    seen: BaseException | None = error
    while seen is not None:
        for frame in reversed(traceback.extract_tb(seen.__traceback__)):
            path = Path(frame.filename)
            if path.is_file() and not any(path.is_relative_to(folder) for folder in _FOREIGN):
                return f"{frame.filename}:{frame.lineno} (`{frame.line}`)"
        seen = seen.__cause__ or seen.__context__
    return ""
