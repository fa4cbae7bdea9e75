"""The samples of a source as batches, each read by several threads, for the one pass in which a task takes them in."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from autocompress.core.cancellation import checkpoint
from autocompress.tasks.batch_sources import BATCH, collated
from autocompress.tasks.decoded_pictures import in_threads
from autocompress.tasks.sources.base import SampleDataset

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0


class ReadAhead:
    """Batches of `BATCH` samples, in order.

    Args:
        samples: read by number.
        name: of the data and the split, for the log.
    """

    def __init__(self, samples: SampleDataset, name: str) -> None:
        self._samples, self._name = samples, name

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self._samples) // BATCH)

    def __iter__(self) -> Iterator[Any]:
        """The batches; the log tells now and then how many samples are read."""
        last, count = time.monotonic(), len(self._samples)
        for start in range(0, count, BATCH):
            checkpoint()
            yield collated([*in_threads(self._samples.__getitem__, range(start, min(start + BATCH, count)))])
            if time.monotonic() - last > PROGRESS_SECONDS:
                last = time.monotonic()
                log.info("%s: read %d of %d samples", self._name, min(start + BATCH, count), count)
