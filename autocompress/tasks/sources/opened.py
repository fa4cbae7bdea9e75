"""The source that a spec names, of any kind."""

from __future__ import annotations

from collections.abc import Callable

from autocompress.tasks.sources.audio import open_audio
from autocompress.tasks.sources.base import Source, SourceContext
from autocompress.tasks.sources.coco import open_coco
from autocompress.tasks.sources.csv_table import open_csv
from autocompress.tasks.sources.masks import open_masks
from autocompress.tasks.sources.named_arrays import open_npz
from autocompress.tasks.sources.specs import SourceSpec, parsed
from autocompress.tasks.sources.voc import open_voc

_OPENED: dict[str, Callable[[SourceSpec, SourceContext], Source]] = {
    "npz": open_npz, "csv": open_csv, "masks": open_masks, "coco": open_coco, "voc": open_voc, "audio": open_audio}


def open_source(spec: str, context: SourceContext) -> Source:
    """The samples that a spec names (`specs.PLACES`). InputError where they cannot be used."""
    taken = parsed(spec)
    return _OPENED[taken.kind](taken, context)
