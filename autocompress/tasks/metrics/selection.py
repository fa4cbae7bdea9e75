"""What a metric compares: which of a file's outputs, with what of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from autocompress.errors import InputError

# A name of an output, or what makes predictions of all outputs by name; None takes the only one.
Predictions = str | Callable[[Mapping[str, np.ndarray]], Any] | None
# A key or a position in a batch, a key inside an entry (`target.age`), or what makes targets of a batch; None takes
# what `targets_of` finds.
Targets = str | int | Callable[[Any], Any] | None
# In the place of targets: what the original puts out.
ORIGINAL = "original"
TARGET_NAMES = ("target", "targets", "label", "labels", "y")
# Names under which libraries return the scores among further outputs.
SCORE_NAMES = ("logits", "scores")


class FileOutputs(Mapping[str, np.ndarray]):
    """What a file puts out for some samples, arrays `(N, …)` by name; a name that is not there is an InputError."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = dict(arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        """The array of a name."""
        if name not in self._arrays:
            raise InputError(f"the file puts out {', '.join(self._arrays)}, but the metric asks for {name!r}: use one "
                             "of these names")
        return self._arrays[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is an output of that name."""
        return name in self._arrays

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._arrays)

    def __len__(self) -> int:
        """Number of outputs."""
        return len(self._arrays)


def predictions_of(outputs: Mapping[str, np.ndarray], which: Predictions = None) -> Any:
    """What is compared with targets: an output `(N, …)`, or what a user's function makes of all.

    Raises:
        InputError: where several outputs are there and nothing says which.
    """
    if which is not None:
        return which(outputs) if callable(which) else outputs[which]
    names = [*outputs] if len(outputs) == 1 else [name for name in SCORE_NAMES if name in outputs]
    if not names:
        raise InputError(f"a metric by name needs to know which of the outputs {', '.join(outputs)} it is of: give "
                         "autocompress.metric(…, predictions='NAME')")
    return outputs[names[0]]


def targets_of(batch: Any, which: Targets = None) -> Any:
    """The targets in a batch: what is said, else the second item of a tuple, or what is called `target`, `targets`,
    `label`, `labels` or `y`.

    Raises:
        InputError: where there are none.
    """
    if callable(which):
        return which(batch)
    targets = _entry(batch, which) if which is not None else target_by_convention(batch)
    if targets is None:
        what = f"{which!r}" if which is not None else "second item of a tuple, or entry " + ", ".join(TARGET_NAMES)
        raise InputError(f"a metric needs targets, but batches, {described(batch)}, have no {what}: give "
                         "autocompress.metric(…, targets=KEY or a function of a batch)")
    return targets


def has_targets(batch: Any) -> bool:
    """Whether `targets_of` finds any without being told where."""
    return target_by_convention(batch) is not None


def target_by_convention(batch: Any) -> Any:
    """The second item of a tuple, or what is called as targets are; None where there is neither."""
    if isinstance(batch, tuple | list) and not hasattr(batch, "_fields"):
        return batch[1] if len(batch) > 1 else None
    return next((entry for name in TARGET_NAMES if (entry := _entry(batch, name)) is not None), None)


def _entry(batch: Any, key: str | int) -> Any:
    """An item of a tuple, an entry of a mapping or a field, or what `outer.inner` names inside one; None where there is
    none."""
    entry = _direct_entry(batch, key)
    if entry is not None or not isinstance(key, str) or "." not in key:
        return entry
    outer, _, inner = key.partition(".")
    return _entry(_direct_entry(batch, outer), inner)


def _direct_entry(batch: Any, key: str | int) -> Any:
    if isinstance(key, str) and not isinstance(batch, Mapping) and not hasattr(batch, "keys"):
        return getattr(batch, key, None)
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError):
        return None


def described(batch: Any) -> str:
    """A batch in words: `tuple of 2`, `dict of image, mask`."""
    if isinstance(batch, Mapping) or hasattr(batch, "keys"):
        return f"{type(batch).__name__} of {', '.join(map(str, batch.keys()))}"
    if isinstance(batch, tuple | list):
        return f"{type(batch).__name__} of {len(batch)}"
    return type(batch).__name__


def as_array(value: Any, what: str) -> np.ndarray:
    """Numbers as an array `(N, …)`, of a tensor, an array or a list. InputError for anything else."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype.is_floating_point else value
        return value.numpy()  # type: ignore[no-any-return]
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty((), object)
    if array.dtype == object or not array.ndim:
        raise InputError(f"{what} must be an array with one row for each sample, but are "
                         f"{type(value).__name__}")
    return array
