"""Converting a traced network to a Core ML program by coremltools."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.core.quiet import silent
from autocompress.errors import TrialError, cause_of
from autocompress.formats.coreml.package import SPEC, WEIGHTS, packed

LOGGERS = ("coremltools", "torchao", "torch.utils._pytree")


def package_of(module: nn.Module, arguments: tuple[Tensor | Mapping[str, Tensor], ...], inputs: list[str],
               outputs: list[str]) -> bytes:
    """The archive of the package of a program that computes in float32.

    Args:
        module: what is converted.
        arguments: what it is called with, of one sample.
        inputs: names of its inputs, in order.
        outputs: names of its outputs, in order.

    Raises:
        TrialError: when torch cannot export it, or coremltools cannot convert it.
    """
    with silent(*LOGGERS), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        import coremltools

        try:
            program = torch.export.export(module, arguments).run_decompositions({})
            converted: Any = coremltools.convert(
                program, convert_to="mlprogram", minimum_deployment_target=coremltools.target.iOS17,
                compute_precision=coremltools.precision.FLOAT32, skip_model_load=True)
            path = Path(folder) / "model.mlpackage"
            converted.save(str(path))
            spec = coremltools.utils.load_spec(str(path))
            for ends, names in ((spec.description.input, inputs), (spec.description.output, outputs)):
                for old, new in zip([end.name for end in ends], names, strict=True):
                    coremltools.utils.rename_feature(spec, old, new)
        except Exception as error:  # it raises many kinds
            raise TrialError(f"coremltools cannot convert it: {cause_of(error)}") from error
        spec.description.metadata.Clear()  # the date, and versions, which the manifest has
        weights = path / WEIGHTS
        assert (path / SPEC).exists()
        return packed(spec.SerializeToString(deterministic=True), weights.read_bytes() if weights.exists() else b"")
