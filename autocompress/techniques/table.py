"""The techniques, in the order in which they are applied."""

from __future__ import annotations

from autocompress.techniques.base import Technique
from autocompress.techniques.decompose import DECOMPOSE
from autocompress.techniques.drop import DROP
from autocompress.techniques.prune import PRUNE
from autocompress.techniques.quantize import QUANTIZE
from autocompress.techniques.sparsify import SPARSIFY

TECHNIQUES: dict[str, Technique] = {t.name: t for t in (DROP, PRUNE, DECOMPOSE, SPARSIFY, QUANTIZE)}
