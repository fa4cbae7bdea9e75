"""The source `audio:`, recordings in `.wav` files: a folder for each class, perhaps below folders for the splits."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import wavfile
from scipy.signal import resample_poly
from torch import Tensor

from autocompress.errors import InputError
from autocompress.tasks.sources.base import INPUT, TARGET, Sample, Source, SourceContext, in_three_splits
from autocompress.tasks.sources.folders import files_below, split_roots, visible_folders
from autocompress.tasks.sources.specs import SourceSpec

log = logging.getLogger(__name__)

_SUFFIXES = frozenset({".wav", ".wave"})
# Where zero lies in unsigned bytes.
_MIDDLE = 128


@dataclass(frozen=True, eq=False)
class Recordings:
    """Recordings as float32 `(samples,)` from -1 to 1, of one rate and length, and their class numbers `(N,)`.

    Channels are averaged; what is shorter is filled with zeros at its end, what is longer is cut there.
    """

    files: tuple[Path, ...]
    rate: int
    samples: int
    targets: Tensor | None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        rate, values = read_wav(self.files[index])
        if rate != self.rate:
            shared = gcd(rate, self.rate)
            values = resample_poly(values, self.rate // shared, rate // shared).astype(np.float32)
        wave = torch.zeros(self.samples)
        wave[: len(values)] = torch.from_numpy(values[: self.samples])
        return {INPUT: wave} if self.targets is None else {INPUT: wave, TARGET: self.targets[index]}


def read_wav(path: Path) -> tuple[int, np.ndarray[Any, Any]]:
    """The rate in Hz, and the recording as float32 `(samples,)` from -1 to 1. InputError where it cannot be read."""
    rate, stored = _stored(path, mapped=False)
    values: np.ndarray[Any, Any]
    if stored.dtype.kind == "u":
        values = (stored.astype(np.float32) - _MIDDLE) / _MIDDLE
    elif stored.dtype.kind == "i":
        values = stored.astype(np.float32) / -float(np.iinfo(stored.dtype).min)
    else:
        values = stored.astype(np.float32)
    return rate, values if values.ndim == 1 else values.mean(1, dtype=np.float32)


def rate_and_length(path: Path) -> tuple[int, int]:
    """The rate in Hz and the number of samples, by the header where the file allows that. InputError where it cannot be
    read, or ends before its header says."""
    with warnings.catch_warnings():  # filters are the process's: not where several threads read
        warnings.simplefilter("error", wavfile.WavFileWarning)
        warnings.filterwarnings("ignore", "Chunk")  # notes of other programs
        rate, stored = _stored(path, mapped=True)
    return rate, len(stored)


def _stored(path: Path, *, mapped: bool) -> tuple[int, np.ndarray[Any, Any]]:
    try:
        rate, stored = wavfile.read(path, mmap=mapped)
    except (ValueError, OSError, EOFError, UnboundLocalError, wavfile.WavFileWarning) as error:  # of a lone header
        if mapped and "mmap" in str(error):  # 24 bits
            return _stored(path, mapped=False)
        raise InputError(f"{path} must be a recording in an intact .wav file, but: {error}") from None
    if not len(stored) or rate < 1:
        raise InputError(f"{path} must be a recording in an intact .wav file, but holds no sample")
    return int(rate), stored


def open_audio(spec: SourceSpec, context: SourceContext) -> Source:
    """Recordings by class, or without labels where a folder holds recordings and no folders.

    Options: `rate`, samples a second, by default that of all files; `seconds`, the length of an input, by default that
    of the longest recording.

    Raises:
        InputError: where a file cannot be read, rates differ and none is asked for, or a class is unknown in training.
    """
    (folder,) = spec.paths
    roots = split_roots(folder)
    names = tuple(path.name for path in visible_folders(roots["train"]))
    files: list[Path] = []
    labels: list[int] = []
    ranges: dict[str, range] = {}
    for split, root in roots.items():
        begin = len(files)
        for path in files_below(root, _SUFFIXES):
            files.append(path)
            labels.append(_label(path, root, names))
        ranges[split] = range(begin, len(files))
    if not files:
        raise InputError(f"{folder} must hold .wav files in one folder for each class, but holds none")
    targets = torch.tensor(labels) if names else None
    rate, samples = _rate_and_length(files, spec, folder)
    recordings = Recordings(tuple(files), rate, samples, targets)
    splits = in_three_splits(recordings, ranges, context.seed, str(folder), targets)
    prepared = f"{samples} samples at {rate} Hz, from -1 to 1, channels averaged"
    log.info("%s: %d recordings, %s", folder, len(files), prepared)
    return Source(folder.resolve().name, splits, (INPUT,), bool(names), len(names) or None, names,
                  *context.normalisation, prepared, {"rate": rate})


def _label(path: Path, root: Path, names: Sequence[str]) -> int:
    """The class number of a recording: that of its folder below `root`."""
    inside = path.relative_to(root).parts
    if not names:
        return 0
    if len(inside) < 2 or inside[0] not in names:
        raise InputError(f"{path} must be in the folder of a class that is also in training, {', '.join(names[:8])}"
                         f"{', …' if len(names) > 8 else ''}, but is in {inside[0] if len(inside) > 1 else root.name}")
    return names.index(inside[0])


def _rate_and_length(files: Sequence[Path], spec: SourceSpec, folder: Path) -> tuple[int, int]:
    """The rate of inputs in Hz, and how many samples they have."""
    rates: dict[int, Path] = {}
    seconds = 0.0
    for path in files:
        rate, length = rate_and_length(path)
        rates.setdefault(rate, path)
        seconds = max(seconds, length / rate)
    rate_option = spec.number("rate", int, "a number of samples a second such as 16000")
    if rate_option is None and len(rates) > 1:
        told = ", ".join(f"{rate} Hz ({path.name})" for rate, path in sorted(rates.items())[:4])
        raise InputError(f"{folder}: recordings must share one rate, but there are {told}: say the network's, such as "
                         f"audio:{folder}?rate={max(rates)}")
    rate = int(rate_option or next(iter(rates)))
    duration = spec.number("seconds", float, "a number of seconds such as 1.0") or seconds
    return rate, max(1, round(duration * rate))
