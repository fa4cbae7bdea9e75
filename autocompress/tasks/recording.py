"""Splits of a task as they are recorded: within a number of samples and bytes, which is told as early as it can be."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from autocompress.errors import InputError
from autocompress.quantities import format_bytes
from autocompress.tasks.batch_sources import batch_count, batches_of
from autocompress.tasks.batch_structure import Structure
from autocompress.tasks.batches import Batches, BatchRecorder, GetInputs
from autocompress.tasks.cache import cache_dir
from autocompress.tasks.row_writer import HELD_BYTES

log = logging.getLogger(__name__)

# Samples at which an iterable that does not say its length counts as endless.
MOST_SAMPLES = 1_000_000
# Samples that tell how many bytes all of them will take.
TELLING_SAMPLES = 256
# Times its length that an iterable may give before that counts as not said.
MOST_TIMES_LENGTH = 2
# Share of the free space of a disk that may be filled.
SHARE_OF_DISK = 0.9
PROGRESS_SECONDS = 5.0


class RecordingLimit:
    """The bytes that all splits of a task may take together.

    Args:
        most: bytes that the user allows.
    """

    def __init__(self, most: int) -> None:
        folder = cache_dir()
        free = int(shutil.disk_usage(_existing(folder)).free * SHARE_OF_DISK)
        self._folder, self._most, self._free, self._earlier = folder, most, free, 0

    def check(self, split: str, total: int | None, batches: int, recorder: BatchRecorder) -> None:
        """InputError where a split that is being recorded is endless, or takes more than is allowed.

        Args:
            split: its name.
            total: number of its batches; None where it does not say that.
            batches: recorded so far.
            recorder: has them.
        """
        samples, taken = recorder.samples, recorder.bytes
        total = None if total is not None and batches > MOST_TIMES_LENGTH * total + 1 else total
        whole = taken if total is None or samples < TELLING_SAMPLES else max(taken, taken * total // batches)
        most = max(HELD_BYTES, min(self._most, self._free) - self._earlier)
        endless = total is None and (samples > MOST_SAMPLES or whole > most)
        if endless:
            raise InputError(f"the {split} split must end, but gave {samples:,} samples ({format_bytes(taken)}) and "
                             "does not say how many there are: cut it off with itertools.islice, or give it a length "
                             "(__len__)")
        if whole <= most:
            return
        needed = whole + self._earlier
        if needed > self._free:
            raise InputError(f"the {split} split must fit on the disk of {self._folder}, of which "
                             f"{format_bytes(self._free)} can be used, but takes {format_bytes(whole)}: free space, "
                             "let AUTOCOMPRESS_CACHE name another folder, or give fewer or smaller samples")
        raise InputError(f"recorded samples must take at most {format_bytes(self._most)} of the disk, but with the "
                         f"{split} split they are {format_bytes(needed)}: allow more by --cache-size (in Python "
                         "autocompress.Task(cache_size=…)), or give fewer or smaller samples")

    def keep(self, taken: int) -> None:
        """Count the bytes of a split that is recorded."""
        self._earlier += taken


def recorded(source: Any, split: str, get_inputs: GetInputs | None, first: Structure | None,
             limit: RecordingLimit) -> Batches:
    """All batches of a split. InputError where they do not end, or are too many."""
    recorder, total = BatchRecorder(get_inputs, split, first), batch_count(source)
    last = time.monotonic()
    with closing(batches_of(source, split)) as batches:
        for number, batch in enumerate(batches, 1):
            recorder.add(batch)
            limit.check(split, total, number, recorder)
            if time.monotonic() - last > PROGRESS_SECONDS:
                last = time.monotonic()
                of = "its end is not said" if total is None else f"{number:,} of {total:,} batches"
                log.info("%s split: read %s samples, %s", split, f"{recorder.samples:,}", of)
    limit.keep(recorder.bytes)
    return recorder.finish()


def drawn_again(source: Any, first: Batches, get_inputs: GetInputs | None, limit: RecordingLimit) -> Batches | None:
    """The training batches, drawn a second time where random augmentations make others of them; None where they do not,
    or where batches can be drawn but once."""
    if isinstance(source, Iterator):
        return None
    recorder = BatchRecorder(get_inputs, "train", first.structure)
    with closing(batches_of(source, "train", view=1)) as batches:
        for number, batch in enumerate(batches):
            recorder.add(batch)
            if not number and recorder.is_start_of(first):
                return None
            limit.check("train", len(first), number + 1, recorder)
    limit.keep(recorder.bytes)
    again = recorder.finish()
    return again if again.starts == first.starts else None


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that there is."""
    return next(each for each in (folder, *folder.parents) if each.exists())
