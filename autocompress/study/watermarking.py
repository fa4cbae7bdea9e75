"""The owner's watermark in a candidate's file: the same levels in every format, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.artifact.watermark import SCHEME, Marked, put_in
from autocompress.backend.network.compressed import Compressed
from autocompress.backend.network.quantized_weight import QuantizedWeight, level_table
from autocompress.core.evaluation import Candidate
from autocompress.errors import InputError, StorageError
from autocompress.formats.base import WritableNetwork

if TYPE_CHECKING:
    from autocompress.study.workbench import Workbench


@dataclass(frozen=True)
class Watermarked:
    """A file with a watermark, the network in torch that it holds, and facts for the manifest."""

    data: bytes
    network: nn.Module
    facts: dict[str, Any]


def watermarked(bench: Workbench, candidate: Candidate, key: bytes) -> Watermarked:
    """Write the file of a candidate anew, with the watermark of a key.

    Raises:
        InputError: where its integer weights are too few, or the study no longer has its weights.
    """
    assert candidate.plan is not None and candidate.best is not None
    try:
        compressed = bench.trainer.rebuild(candidate.plan, candidate.best.rung, candidate.best.weights)
    except StorageError as error:
        raise InputError(f"a watermark takes the weights of trial {candidate.trial}, but {error}") from None
    marks: list[tuple[WritableNetwork, Marked]] = []

    def mark(network: WritableNetwork) -> WritableNetwork:
        marks.append(with_watermark(network, key, compressed))
        return marks[-1][0]

    data = bench.network.write(compressed, mark).data
    network, marked = marks[-1]
    return Watermarked(data, network.model, {
        "scheme": SCHEME, "weights": marked.evidence.weights, "moved": marked.moved,
        "chance_exponent": marked.evidence.exponent})


def with_watermark(network: WritableNetwork, key: bytes, compressed: Compressed) -> tuple[WritableNetwork, Marked]:
    """A network whose integer weights show a key, its module changed in place.

    Args:
        network: as its file is to hold it.
        key: of the owner.
        compressed: the same before its norms were folded, with the weights that its integers were rounded from.

    Raises:
        InputError: where they are too few.
    """
    weights = {name: weight for name, weight in network.integers.items() if isinstance(weight, QuantizedWeight)}
    marked = put_in({name: weight.levels.flatten(1).numpy() for name, weight in weights.items()},
                    {name: level_table(weight).numpy().astype(np.int8) for name, weight in weights.items()}, key,
                    {name: _ratios(weight, compressed.weights[name], compressed.latent[name])
                     for name, weight in weights.items() if name in compressed.latent})
    changed = {name: replace(weight, levels=torch.from_numpy(marked.levels[name]).reshape(weight.levels.shape))
               for name, weight in weights.items()}
    with torch.no_grad():
        for name, weight in changed.items():
            stored = network.model.get_submodule(name).weight
            assert isinstance(stored, Tensor)
            stored.copy_(weight.dequantized())
    return replace(network, integers={**network.integers, **changed}), marked


def _ratios(folded: QuantizedWeight, weight: QuantizedWeight, latent: Tensor) -> np.ndarray:
    """What the levels of a folded weight were rounded from `(C, n)`: folding may have turned signs of channels."""
    levels, turned = (one.levels.flatten(1).float() for one in (weight, folded))
    signs = (levels * turned).sum(1, keepdim=True).sign()
    ratios: np.ndarray = ((latent / weight.steps()).flatten(1) * signs).numpy()
    return ratios
