"""Running a network in torch, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import TrialError, cause_of
from autocompress.formats import base
from autocompress.formats.base import Arrays


class TorchRuntime(base.Runtime):
    """A loaded network.

    Args:
        call: takes tensors by name and returns tensors by name.
        dtypes: of the inputs, by name.
        threads: CPU threads of a run.
    """

    def __init__(self, call: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], dtypes: Mapping[str, torch.dtype],
                 threads: int = 1) -> None:
        self._call, self._dtypes, self._threads = call, dtypes, threads

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name.

        Raises:
            TrialError: when the network fails on the batch.
        """
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(self._threads)
            arguments = {name: torch.from_numpy(np.ascontiguousarray(inputs[name])).to(dtype)
                     for name, dtype in self._dtypes.items()}
            with torch.no_grad():
                outputs: Mapping[str, Any] = self._call(arguments)
            return {name: tensor.numpy() for name, tensor in outputs.items()}
        except Exception as error:  # torch raises many kinds
            raise TrialError(f"torch fails on {len(next(iter(inputs.values()), ()))} inputs: {cause_of(error)}"
                             ) from error
        finally:
            torch.set_num_threads(before)
