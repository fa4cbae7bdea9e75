"""What users give as a split of a task, as a stream of batches."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler

from autocompress.errors import AutocompressError, InputError
from autocompress.tasks.batch_structure import ONE_SHAPE, is_rows, parts, rebuilt
from autocompress.tasks.metrics.selection import target_by_convention

# What torch says of samples that cannot be stacked.
_UNEQUAL = "stack expects each tensor to be equal size"
# Samples of a batch where the user makes none.
BATCH = 64
# Samples that wait for others of their shape at most.
MOST_WAITING = 16 * BATCH


def batches_of(source: Any, name: str, view: int = 0) -> Generator[Any, None, None]:
    """The batches of a split, in the same order whenever they are drawn.

    Args:
        source: a DataLoader (one that shuffles is read in order), a Dataset or a list of samples, arrays with a row for
            each sample (one, or a tuple, dict or dataclass of them), or any iterable of batches.
        name: of the split, for messages.
        view: number of the pass: random augmentations of the user's are drawn by it.

    Raises:
        InputError: where it is none of these, raises, or does not end.
    """
    with _settled_randomness(view):
        stream = _stream(source, name)
        for number in range(1, 2**62):
            try:
                batch = next(stream)
            except StopIteration:
                return
            except AutocompressError:
                raise
            except Exception as error:  # the user's code: anything can come
                hint = f": {ONE_SHAPE}; or give the Dataset itself" if _UNEQUAL in str(error) else ""
                raise InputError(f"the {name} split must give all its batches, but batch {number} raised "
                                 f"{_told(error)}{hint}") from error
            yield batch


def batch_count(source: Any) -> int | None:
    """Number of batches of a split; None where it does not say that."""
    arrays = _arrays(source)
    try:
        count = len(arrays[0]) if arrays else len(source)
    except TypeError:  # a DataLoader has a length, but raises where its dataset has none
        return None
    are_samples = _by_number(source) and not isinstance(source, DataLoader)
    are_samples = bool(arrays) or isinstance(source, IterableDataset) or are_samples or are_listed_samples(source)
    return -(-count // BATCH) if are_samples else count


def collated(samples: Sequence[Any], inside: bool = False) -> Any:
    """Samples as one batch, built as each of them is: numbers and arrays of one shape are stacked, all else, such as
    texts, is a list with an entry for each sample; so is a mapping `inside` a sample, such as boxes and labels, of
    which other samples have more. InputError where samples differ in what they hold."""
    first = samples[0]
    if isinstance(first, Tensor | np.ndarray | int | float | np.generic):
        tensors = [torch.as_tensor(sample) for sample in samples]
        return torch.stack(tensors) if len({(tensor.shape, tensor.dtype) for tensor in tensors}) == 1 else [*samples]
    if isinstance(first, Mapping | tuple) or _is_dataclass(first):
        if len({tuple(key for key, _ in parts(sample)) for sample in samples}) > 1:
            raise InputError("all samples must hold the same, but some have not all of "
                             f"{', '.join(key for key, _ in parts(first))}")
        columns = zip(*([part for _, part in parts(sample)] for sample in samples), strict=True)
        collated_columns = [collated(column, True) for column in columns]
        ragged = any(isinstance(column, list) and is_rows(column[0]) for column in collated_columns)
        return [*samples] if inside and ragged else rebuilt(first, collated_columns)
    return [*samples]


def _stream(source: Any, name: str) -> Iterator[Any]:
    if isinstance(source, DataLoader):
        return iter(_in_order(source))
    if isinstance(source, IterableDataset):
        return _grouped(iter(source))
    if is_rows(source) or _arrays(source):
        return _of_arrays(source, name)
    if are_listed_samples(source):
        return _grouped(iter(source))
    if _by_number(source):
        return _grouped(source[i] for i in range(len(source)))
    if isinstance(source, Iterable) and not isinstance(source, str | bytes | Mapping):
        return iter(source)
    odd = [f"{key} is {type(part).__name__}" for key, part in source.items() if not _arrays(part)] \
        if isinstance(source, Mapping) else []
    hint = f", in which {', '.join(odd)}: give what is no array by a Dataset of samples" if odd else ""
    raise InputError(f"the {name} split must be batches, a Dataset, a DataLoader or arrays with a row for each sample, "
                     f"but is {type(source).__name__}{hint}")


def _by_number(source: Any) -> bool:
    """Whether samples are read by their number."""
    return hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(
        source, list | str | bytes | Mapping | tuple)


def are_listed_samples(source: Any) -> bool:
    """Whether a list is of samples, as that of a Dataset is, and not of batches: of a batch the target is an array with
    an entry for each sample, of a sample it is one number, or the arrays of two can be of one sample alone."""
    return isinstance(source, list) and bool(source) and all(map(_is_sample, source))


def _is_sample(value: Any) -> bool:
    target = target_by_convention(value)
    if isinstance(target, int | float | np.generic) or (isinstance(target, Tensor | np.ndarray) and not target.ndim):
        return True
    if not isinstance(value, tuple | list) or len(value) != 2 or not is_rows(value[0]) or not is_rows(target):
        return False
    (first, *shape), (second, *_) = value[0].shape, target.shape
    is_row = value[0].ndim == target.ndim == 1
    is_picture_with_map = value[0].ndim == 3 and tuple(target.shape[-2:]) == tuple(shape)
    return first != second and (is_row or is_picture_with_map)


def _told(error: Exception) -> str:
    """The type and the message of an error, of one line; those of the error in a worker of a DataLoader are the last
    line of the traceback that torch gives back as the message."""
    lines = str(error).strip().splitlines() or ["no message"]
    inside = lines[0].startswith(f"Caught {type(error).__name__} in DataLoader worker")
    return lines[-1] if inside else f"{type(error).__name__}: {lines[0]}"


def _in_order(loader: DataLoader[Any]) -> Iterable[Any]:
    """A loader that does not shuffle, and leaves no sample out, where it does so by torch's own sampler."""
    if type(loader.batch_sampler) is not BatchSampler or not hasattr(loader.dataset, "__len__"):
        return loader
    shuffles = isinstance(loader.sampler, RandomSampler)
    if not shuffles and not loader.drop_last:
        return loader
    sampler = None if shuffles else loader.sampler
    return DataLoader(loader.dataset, batch_size=loader.batch_size, sampler=sampler, num_workers=loader.num_workers,
                      collate_fn=loader.collate_fn, timeout=loader.timeout, worker_init_fn=loader.worker_init_fn,
                      multiprocessing_context=loader.multiprocessing_context)


def _grouped(samples: Iterator[Any]) -> Iterator[Any]:
    """Batches of samples in order; those of one shape together, where pictures or other first items have several."""
    groups: dict[Any, list[Any]] = {}
    for value in samples:
        sample = tuple(value) if type(value) is list else value  # as torch collates it
        group = groups.setdefault(_shapes(sample), [])
        group.append(sample)
        if len(group) == BATCH:
            yield collated(groups.pop(_shapes(sample)))
        elif sum(map(len, groups.values())) == MOST_WAITING:
            yield from (collated(groups.pop(shapes)) for shapes in [*groups])
    yield from map(collated, groups.values())


def _shapes(sample: Any) -> tuple[tuple[int, ...], ...]:
    """Shapes of what a network may read of a sample: of its first item, or of pictures and volumes by name. Others,
    such as those of boxes, are as many as there are objects."""
    if isinstance(sample, tuple) and not hasattr(sample, "_fields"):
        return _shapes(sample[0]) if sample else ()
    if isinstance(sample, Tensor | np.ndarray):
        return (tuple(sample.shape),)
    if isinstance(sample, Mapping) or hasattr(sample, "_fields") or _is_dataclass(sample):
        return tuple(tuple(part.shape) for _, part in parts(sample)
                     if isinstance(part, Tensor | np.ndarray) and part.ndim > 2)
    return ()


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _arrays(value: Any) -> list[Any]:
    """All arrays in nested tuples, mappings and dataclasses; none where there is anything else."""
    if is_rows(value):
        return [value]
    if not isinstance(value, Mapping | tuple) and not _is_dataclass(value):
        return []
    every = [_arrays(part) for _, part in parts(value)]
    return [array for arrays in every for array in arrays] if all(every) else []


def _of_arrays(arrays: Any, name: str) -> Iterator[Any]:
    lengths = {len(array) for array in _arrays(arrays)}
    if len(lengths) > 1:
        raise InputError(f"arrays of the {name} split must have a row for each sample, but have "
                         f"{' and '.join(map(str, sorted(lengths)))} rows")

    def rows(value: Any, start: int) -> Any:
        return value[start:start + BATCH] if is_rows(value) else \
            rebuilt(value, [rows(part, start) for _, part in parts(value)])

    yield from (rows(arrays, start) for start in range(0, lengths.pop(), BATCH))


@contextmanager
def _settled_randomness(seed: int) -> Iterator[None]:
    """A context in which random augmentations of a user's data are drawn by `seed`; the caller's random numbers are
    afterwards what they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
