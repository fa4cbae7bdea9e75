"""An artefact in use: `load(folder)` gives a callable with named inputs and outputs. No torch is needed for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.artifact.contents import Contents, read_contents
from autocompress.artifact.manifest import Manifest, TensorFacts
from autocompress.artifact.options import Trust
from autocompress.core.batch_sizes import rows_at_once
from autocompress.errors import InputError, TrialError
from autocompress.formats.table import reader_named

# Samples of one run at most.
MOST_ROWS = 256
# Of the inputs that are given to the runtime at once: it holds tens of times as much.
INPUT_BYTES = 3 * 2**20
PIXELS = "pixels / 255"


class LoadedArtifact:
    """A shipped network. Called with arrays as the network reads them, it gives its outputs by name:

        network = autocompress.load("artifact")
        network(images)["output"]                      # one input
        network(tokens=tokens, mask=mask)["output"]    # several, by name

    `normalised` makes such arrays of pixels or values as they are stored.

    Args:
        contents: the artefact's files.
        threads: CPU threads.

    Raises:
        InputError: where the file cannot be run here.
    """

    def __init__(self, contents: Contents, threads: int = 1) -> None:
        self.manifest: Manifest = contents.manifest
        self.files = contents.files
        try:
            self._runtime = reader_named(self.manifest.format).open(contents.model, threads)
        except TrialError as error:
            raise InputError(f"{contents.folder / self.manifest.model} cannot be run: {error}") from None

    @property
    def inputs(self) -> dict[str, TensorFacts]:
        """What the network reads, by name."""
        return self.manifest.read

    @property
    def outputs(self) -> dict[str, TensorFacts]:
        """What it puts out, by name."""
        return self.manifest.written

    def __call__(self, *arrays: Any, **named: Any) -> dict[str, np.ndarray]:
        """Run it on samples.

        Args:
            arrays: one array `(N, …)` for each input, in order.
            named: or by name.

        Returns:
            Arrays `(N, …)` by name of the output.

        Raises:
            InputError: for arrays of other shapes or types than the network reads.
        """
        feed = self._feed(arrays, named)
        rows = rows_at_once(next(iter(feed.values())).shape[1:], MOST_ROWS, INPUT_BYTES)
        count = len(next(iter(feed.values())))
        try:
            batches = [self._runtime.run({name: values[i:i + rows] for name, values in feed.items()})
                       for i in range(0, count, rows)]
        except TrialError as error:
            raise InputError(f"the network cannot be run on these samples: {error}") from None
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def normalised(self, values: Any, name: str | None = None) -> np.ndarray:
        """Stored samples `(N, …)` as the network reads them: bytes of pixels are divided by 255, then the mean is
        subtracted and the standard deviation divided by, as far as the manifest says so.

        Args:
            values: pixels or numbers; floats of pixels are taken to be divided by 255 already.
            name: of the input; needed where there are several.

        Raises:
            InputError: for what is no input, or no numbers, or no whole ones where the network reads such.
        """
        facts = self._one(name)
        values = np.asarray(values)
        require_numbers(facts.name, values)
        kind = np.dtype(facts.dtype)
        if kind.kind not in "f":
            return whole_numbers(facts, values)
        scaled: np.ndarray = values.astype(np.float32)
        if facts.scale == PIXELS and values.dtype.kind in "ui":
            scaled = scaled / np.float32(255)
        if any(facts.mean) or any(value != 1 for value in facts.std):
            shape = (1, -1) + (1,) * (values.ndim - 2)
            scaled = ((scaled - np.array(facts.mean, np.float32).reshape(shape))
                      / np.array(facts.std, np.float32).reshape(shape))
        scaled = scaled.astype(kind)
        return scaled

    def close(self) -> None:
        """End what the runtime holds outside this process."""
        self._runtime.close()

    def _one(self, name: str | None) -> TensorFacts:
        if name is None and len(self.inputs) == 1:
            return next(iter(self.inputs.values()))
        if name not in self.inputs:
            raise InputError(f"an input must be one of {', '.join(self.inputs)}, but got {name!r}")
        return self.inputs[name]

    def _feed(self, arrays: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, np.ndarray]:
        if len(arrays) > len(self.inputs):
            raise InputError(f"the network must get {len(self.inputs)} inputs, {', '.join(self.inputs)}, but got "
                             f"{len(arrays)}")
        arrays_by_name = {**dict(zip(self.inputs, arrays, strict=False)), **named}
        if set(arrays_by_name) != set(self.inputs):
            raise InputError(f"the network must get the inputs {', '.join(self.inputs)}, but got "
                             f"{', '.join(arrays_by_name) or 'none'}")
        feed = {name: fitting(name, np.asarray(arrays_by_name[name]), facts) for name, facts in self.inputs.items()}
        counts = {name: len(values) for name, values in feed.items()}
        if len(set(counts.values())) != 1:
            raise InputError(f"inputs must have the same number of samples, but got {counts}")
        return feed


def load(folder: Path | str, threads: int = 1, *, key: Path | str | None = None,
         decrypt: Path | str | None = None) -> LoadedArtifact:
    """Load an artefact that `export` wrote, whose files must be what its manifest says.

    Args:
        folder: the artefact.
        threads: CPU threads.
        key: file of the public key by whose owner it must be signed.
        decrypt: file of the key that opens it where it is encrypted; it is opened in memory.

    Returns:
        A callable: arrays in, arrays by name out.

    Raises:
        InputError: where the folder holds no artefact, one that was changed, one of a newer release, or one that is
            not signed or encrypted with these keys.
        EnvironmentFault: where keys are given and `cryptography` is not installed.
    """
    return LoadedArtifact(read_contents(folder, Trust.of(key, decrypt)), threads)


def require_numbers(name: str, values: np.ndarray) -> None:
    """Refuse what holds no real numbers.

    Args:
        name: of the input.
        values: for it.

    Raises:
        InputError: for text, complex numbers, times, records and objects.
    """
    if values.dtype.kind not in "biuf":
        raise InputError(f"input {name!r} must hold numbers, but holds {values.dtype}")


def whole_numbers(facts: TensorFacts, values: np.ndarray) -> np.ndarray:
    """Numbers as the whole ones that an input reads.

    Args:
        facts: of the input.
        values: numbers.

    Returns:
        The same in the type of the input.

    Raises:
        InputError: where they are others.
    """
    with np.errstate(invalid="ignore"):
        whole: np.ndarray = values.astype(facts.dtype)
    if not np.array_equal(whole, values):
        raise InputError(f"input {facts.name!r} must hold whole numbers ({facts.dtype}), but holds others")
    return whole


def fitting(name: str, values: np.ndarray, facts: TensorFacts) -> np.ndarray:
    """Values in the type that the network reads.

    Args:
        name: of the input.
        values: for it, `(N, …)`.
        facts: of the input.

    Returns:
        The same in the type of the input.

    Raises:
        InputError: where they have another shape, or are no numbers of that kind.
    """
    expected = facts.shape[1:]
    fits = values.ndim == len(facts.shape) and all(
        isinstance(size, str) or size == actual or axis in facts.free_axes
        for axis, (size, actual) in enumerate(zip(expected, values.shape[1:], strict=True), 1))
    if not fits or not len(values):
        raise InputError(f"input {name!r} must have shape ({', '.join(map(str, facts.shape))}), with one sample or "
                         f"more, but has {values.shape}")
    require_numbers(name, values)
    if np.dtype(facts.dtype).kind in "iu" and values.dtype.kind == "f":
        raise InputError(f"input {name!r} must hold whole numbers ({facts.dtype}), but holds {values.dtype}")
    return values.astype(facts.dtype)
