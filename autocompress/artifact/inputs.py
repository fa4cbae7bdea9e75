"""Samples from users' files: pictures, .npy, .npz, recordings and text, told apart by their content.

What a file becomes follows from the manifest alone: shapes, types, how values are normalised and, of data that were
pictures, recordings or text, how those were read for training.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.artifact.loaded import LoadedArtifact, require_numbers, whole_numbers
from autocompress.artifact.manifest import TensorFacts
from autocompress.errors import InputError

STDIN = "-"
# The most that is read of one file, and of standard input.
MOST_BYTES = 4 * 2**30
# What a text file may be at most: numbers or tokens of a few samples.
MOST_TEXT = 64 * 2**20


@dataclass(frozen=True)
class Samples:
    """Samples of one file, as the network reads them: arrays `(N, …)` by name of the input."""

    origin: str
    arrays: Mapping[str, np.ndarray]

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values())))


def read_samples(network: LoadedArtifact, place: str, stdin: Any = None, as_is: bool = False) -> Samples:
    """Read the samples of one file.

    Args:
        network: that they are for.
        place: path of the file; `-` for `stdin`.
        stdin: a binary stream.
        as_is: arrays are what the network reads, and are not normalised.

    Raises:
        InputError: where the file cannot be read, or does not hold what the network reads.
    """
    data = _content(place, stdin)
    origin = "standard input" if place == STDIN else place
    tokenized = next((facts.files for facts in network.inputs.values() if "tokenizer" in facts.files), None)
    if tokenized and not data.startswith((b"PK", b"\x93NUMPY")) and _is_text(data):
        from autocompress.artifact.text import tokens

        return Samples(origin, tokens(network, tokenized, data.decode(), origin))
    arrays = dict(_stored(network, data, origin))
    for name, values in arrays.items():
        require_numbers(name, values)
        if not np.isfinite(values).all():
            raise InputError(f"{origin} must hold finite numbers for input {name!r}, but holds NaN or infinity")
    return Samples(origin, {name: values if as_is else network.normalised(values, name)
                            for name, values in arrays.items()})


def _content(place: str, stdin: Any) -> bytes:
    if place == STDIN:
        data: bytes = stdin.read(MOST_BYTES + 1)
    else:
        try:
            with Path(place).open("rb") as stream:
                data = stream.read(MOST_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"an input must be a file that can be read, or - for standard input, but {place}: "
                             f"{reason}") from None
    if not data or len(data) > MOST_BYTES:
        origin = "standard input" if place == STDIN else place
        raise InputError(f"an input must have 1 byte to {MOST_BYTES >> 30} GiB, but {origin} has "
                         f"{'none' if not data else 'more'}")
    return data


def _stored(network: LoadedArtifact, data: bytes, origin: str) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays `(N, …)` by name of the input, not normalised yet."""
    if data.startswith(b"PK\x03\x04") or data.startswith(b"PK\x05\x06"):
        yield from _from_npz(network, data, origin)
        return
    if len(network.inputs) != 1:
        raise InputError(f"a network with the inputs {', '.join(network.inputs)} must get .npz files with an array for "
                         f"each, but {origin} is none")
    (facts,) = network.inputs.values()
    if data.startswith(b"\x93NUMPY"):
        values = _from_npy(data, origin)
    elif data.startswith((b"RIFF", b"RIFX", b"RF64")) and data[8:12] == b"WAVE":
        values = _from_recording(facts, data, origin)
    elif _is_text(data):
        values = _from_text(facts, data.decode(), origin)
    else:
        values = _from_picture(facts, data, origin)
    yield facts.name, _batched(values, facts, origin)


def _batched(values: np.ndarray, facts: TensorFacts, origin: str) -> np.ndarray:
    """One sample, or several, as `(N, …)`."""
    sizes = facts.shape[1:]
    for samples in (values, values[None]):
        if samples.ndim == len(facts.shape) and all(isinstance(size, str) or size == actual for size, actual in
                                                    zip(sizes, samples.shape[1:], strict=True)):
            return samples
    raise InputError(f"{origin} must hold samples of shape ({', '.join(map(str, sizes))}), one or several, for input "
                     f"{facts.name!r}, but holds {values.shape}")


def _from_npy(data: bytes, origin: str) -> np.ndarray:
    try:
        values: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, SyntaxError) as error:
        raise InputError(f"{origin} must be an intact .npy file of numbers, but: {error}") from None
    return values


def _from_npz(network: LoadedArtifact, data: bytes, origin: str) -> Iterator[tuple[str, np.ndarray]]:
    from autocompress.tasks.npz import read_arrays

    with tempfile.NamedTemporaryFile(suffix=".npz") as file:  # its arrays are read where they lie
        file.write(data)
        file.flush()
        try:
            arrays = {name: np.array(values) for name, values in read_arrays(Path(file.name)).items()}
        except InputError as error:
            raise InputError(str(error).replace(file.name, origin)) from None
    if len(network.inputs) == 1 and len(arrays) == 1:
        arrays = {next(iter(network.inputs)): next(iter(arrays.values()))}
    missing = [name for name in network.inputs if name not in arrays]
    if missing:
        raise InputError(f"{origin} must hold an array for each input, {', '.join(network.inputs)}, but holds "
                         f"{', '.join(arrays) or 'none'}")
    for name, facts in network.inputs.items():
        yield name, _batched(arrays[name], facts, origin)


def _from_recording(facts: TensorFacts, data: bytes, origin: str) -> np.ndarray:
    """A recording as float32 `(samples,)` from -1 to 1, at the rate and of the length that the network reads."""
    from scipy.signal import resample_poly

    from autocompress.tasks.sources.audio import read_wav

    if len(facts.shape) not in (2, 3) or not isinstance(facts.shape[-1], int):
        raise InputError(f"{origin} is a recording, but the network reads ({', '.join(map(str, facts.shape))}): give "
                         "its features as .npy")
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        file.write(data)
        file.flush()
        try:
            rate, values = read_wav(Path(file.name))
        except InputError as error:
            raise InputError(str(error).replace(file.name, origin)) from None
    rate_read = int(facts.files.get("rate", rate))
    if rate != rate_read:
        values = resample_poly(values, rate_read, rate).astype(np.float32)
    wave = np.zeros(facts.shape[-1], np.float32)
    wave[:len(values)] = values[:facts.shape[-1]]
    return wave if len(facts.shape) == 2 else wave[None]


def _is_text(data: bytes) -> bool:
    try:
        text = data[:MOST_TEXT].decode()
    except UnicodeDecodeError:
        return False
    return "\0" not in text


def _from_text(facts: TensorFacts, text: str, origin: str) -> np.ndarray:
    """Each line a sample, of numbers between commas or spaces."""
    if len(text) > MOST_TEXT:
        raise InputError(f"{origin} must be at most {MOST_TEXT >> 20} MiB of text, but is more: give an .npy file")
    sizes = [size for size in facts.shape[1:] if isinstance(size, int)]
    count = int(np.prod(sizes)) if len(sizes) == len(facts.shape) - 1 else None
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), 1):
        cells = line.replace(",", " ").replace(";", " ").split()
        if not cells:
            continue
        if not all(cell.strip() for cell in re.split("[,;]", line.rstrip(",; \t"))):
            raise InputError(f"{origin}, line {number}: each cell must hold a number, but one is empty")
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError:
            raise InputError(f"{origin}, line {number}: each line must hold the numbers of a sample, but holds "
                             f"{line.strip()[:40]!r}; text needs tokens, as its network's tokenizer makes them"
                             ) from None
        if count is not None and len(cells) != count:
            raise InputError(f"{origin}, line {number}: a sample of shape ({', '.join(map(str, facts.shape[1:]))}) "
                             f"must have {count} numbers, but has {len(cells)}")
    if not rows:
        raise InputError(f"{origin} must hold a sample in each line, but is empty")
    values = np.array(rows)
    numbers = values.astype(facts.dtype) if np.dtype(facts.dtype).kind == "f" else whole_numbers(facts, values)
    return numbers.reshape(len(rows), *(sizes if count is not None else (-1,)))


def _from_picture(facts: TensorFacts, data: bytes, origin: str) -> np.ndarray:
    """A picture as bytes `(C, H, W)`, fitted as the training data were, or else stretched."""
    from autocompress.tasks.pictures import READING_ERRORS, Levels, Remarks, quiet_reading, upright
    from autocompress.tasks.sources.fit import STRETCH, Fit

    shape, how = facts.shape, facts.files
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise InputError(f"{origin} is neither .npy, .npz, .wav nor text, and the network reads "
                         f"({', '.join(map(str, shape))}), which is no picture")
    try:
        with quiet_reading():
            picture = upright(io.BytesIO(data), Levels(*how["levels"]) if how.get("levels") else None, Remarks())
    except READING_ERRORS as error:
        raise InputError(f"{origin} must be a picture, .npy, .npz, .wav or text, but: {error}") from None
    height, width = (side if isinstance(side, int) else actual for side, actual in
                     zip(shape[2:], (picture.height, picture.width), strict=True))
    fit = Fit(how.get("fit", STRETCH), (height, width), how.get("resize", min(height, width)),
              how.get("interpolation", "bilinear"))
    pixels = fit.picture(picture)
    if shape[1] == 1 and "grey" in how:
        weights = np.array(how["grey"], np.float32).reshape(3, 1, 1)
        return np.asarray((pixels.astype(np.float32) / 255 * weights).sum(0, keepdims=True))
    # One channel is made of three by the weights of ITU-R 601-2, as Pillow does.
    return pixels if shape[1] == 3 else fit.picture(picture.convert("L").convert("RGB"))[:1]
