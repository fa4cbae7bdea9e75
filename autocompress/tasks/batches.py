"""A split of a task as the user's batches: recorded once, then read by samples or batch by batch.

What is large, arrays with a row for each sample, is kept by rows: in memory while it is small, else in files of the
user's cache folder, of which no more is read than is asked for. The rest of each batch is kept as it came.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import InputError
from autocompress.tasks.batch_structure import (
    ONE_SHAPE,
    Reference,
    Structure,
    gathered,
    is_rows,
    parts,
    places_of,
    require_one_shape,
    resolved,
)
from autocompress.tasks.metrics.selection import described
from autocompress.tasks.row_writer import RowWriter, ShapedWriter
from autocompress.tasks.samples import Samples, bytes_of
from autocompress.tasks.shaped_samples import shape_groups

# Name of the input where it has none.
UNNAMED = ""

GetInputs = Callable[[Any], Any]


class Column:
    """Rows of one array of all batches; `signature` is the shape of one and its type, `name` that of an input, whose
    batches may be of several shapes."""

    def __init__(self, like: Tensor, name: str | None) -> None:
        self.signature, self.name, self.closed = _signature(like), name, ""
        self.writer: RowWriter | ShapedWriter = RowWriter() if name is None else ShapedWriter()

    def takes(self, rows: Tensor) -> bool:
        """Whether rows can be added to those that are there."""
        shape, dtype = _signature(rows)
        return dtype == self.signature[1] and (
            shape == self.signature[0] if self.name is None else len(shape) == len(self.signature[0]))


class BatchRecorder:
    """Records batches as they come.

    Args:
        get_inputs: batch → what the network reads, a tensor or a mapping of tensors; left out, all that may be read is
            kept by its name, see `inputs_in`.
        name: of the split, for messages.
        first: how batches of another split of the task are built.
    """

    def __init__(self, get_inputs: GetInputs | None, name: str, first: Structure | None = None) -> None:
        self._get_inputs, self._name, self._first = get_inputs, name, first
        self._structure: Structure | None = None
        self._columns: list[Column] = []
        self._names: dict[str, int] = {}
        self._starts, self._ends = [0], [0]
        self._blobs, self._digest = RowWriter(), hashlib.sha256()

    def add(self, batch: Any) -> None:
        """Record a batch. InputError where it is not built as the first one, or holds no samples."""
        where = f"batch {len(self._starts)} of the {self._name} split"
        inputs = self._inputs(batch, where)
        samples = len(next(iter(inputs.values())))
        if not samples or any(len(tensor) != samples for tensor in inputs.values()):
            raise InputError(f"{where} must hold inputs with a row for each of its samples, but they have "
                             f"{', '.join(str(len(tensor)) for tensor in inputs.values())} rows")
        structure = Structure.of(batch, samples, self._structure or self._first)
        if self._structure is None and self._first is not None:
            structure.require_like(self._first, where)
        self._structure = structure if self._structure is None else self._structure.merged(structure, where)
        if self._get_inputs is not None and self._names and self._names.keys() != inputs.keys():
            raise InputError(f"{where} must give the inputs {', '.join(self._names)}, as the first did, but gives "
                             f"{', '.join(inputs)}")
        written: dict[int, int] = {}
        for name, tensor in inputs.items():
            number = self._names.setdefault(name, len(self._names))
            self._write(number, _tensor(tensor), name)
            written[id(tensor)] = number
        stream = io.BytesIO()
        pickler = _Pickler(stream, self._persistent(samples, written, len(self._names)))
        try:
            pickler.dump(batch)
        except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{where} must hold plain values and arrays, but {described(batch)} cannot be kept: "
                             f"{error}") from error
        for column in self._columns:
            if not column.closed and column.writer.rows == self._starts[-1]:
                column.closed = f"{where} has none"
        data = torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)
        self._blobs.append(data)
        self._digest.update(f"{samples} {len(data)};".encode())
        self._starts.append(self._starts[-1] + samples)
        self._ends.append(self._ends[-1] + len(data))

    @property
    def samples(self) -> int:
        """Number of samples so far."""
        return self._starts[-1]

    @property
    def bytes(self) -> int:
        """Bytes of the samples so far."""
        return self._blobs.bytes + sum(column.writer.bytes for column in self._columns)

    def is_start_of(self, other: Batches) -> bool:
        """Whether all samples so far are those that others begin with; nothing of the batch is looked at beside its
        inputs."""
        return all(self._columns[number].writer.fingerprint
                   == hashlib.sha256(bytes_of(other.column(name)[0:self.samples])).hexdigest()
                   for name, number in self._names.items() if name in other.input_columns and name not in other.shut)

    def finish(self) -> Batches:
        """What was recorded; nothing can be added afterwards. InputError where that is nothing."""
        if self._structure is None or not self.samples:
            raise InputError(f"the {self._name} split must hold samples, but is empty: give batches, a Dataset or "
                             "arrays, and not a generator that was used before")
        for column in self._columns:
            self._digest.update(f"{column.signature} {column.writer.fingerprint};".encode())
        self._digest.update(f"{[*self._names]} {self._structure.words} {self._blobs.fingerprint}".encode())
        inputs = dict(self._names)
        shut = {name: self._columns[number].closed for name, number in inputs.items() if self._columns[number].closed}
        return Batches([column.writer.finish() for column in self._columns], inputs, shut, self._blobs.finish(),
                       self._starts, self._ends, self._structure, self._digest.hexdigest()[:16])

    def _inputs(self, batch: Any, where: str) -> Mapping[str, Any]:
        if self._get_inputs is None:
            if not self._names:
                require_one_shape(batch, where)
            arrays = inputs_in(batch)
            if self._names:  # another array may have as many rows by chance
                arrays = {name: rows for name, rows in arrays.items() if name in self._names}
                if not arrays:
                    raise InputError(f"{where} must be built as the first batch is, with {self._shown_names}, but is "
                                     f"{described(batch)}: give all batches one structure")
            if not arrays:
                raise InputError(f"{where} must hold arrays with a row for each sample, in a dict or as its first "
                                 f"item, but is {described(batch)}{_listed_objects(batch)} say which are inputs by "
                                 "inputs=")
            return arrays
        try:
            values = self._get_inputs(batch)
        except InputError:
            raise
        except Exception as error:  # the user's code: anything can come
            raise InputError(f"inputs failed for {where}, {described(batch)}: {type(error).__name__}: {error}"
                             ) from error
        named = values if isinstance(values, Mapping) else {UNNAMED: values}
        for name, tensor in named.items():
            if not isinstance(name, str) or not is_rows(tensor):
                raise InputError(f"inputs must give a tensor (N, …), or tensors by name, but for {where} gave "
                                 f"{type(tensor).__name__}{f' for {name!r}' if name else ''}")
        return named

    @property
    def _shown_names(self) -> str:
        return ", ".join(self._names) if UNNAMED not in self._names else "an array as its first item"

    def _write(self, number: int, rows: Tensor, name: str | None = None) -> bool:
        """Add rows to a column, unless they differ from those it has."""
        if number == len(self._columns):
            column = Column(rows, name)
            column.closed = "" if not self.samples else "the first batch has none"
            self._columns.append(column)
        column = self._columns[number]
        if not column.closed and not column.takes(rows):
            column.closed = f"samples are {_shown(column.signature)} and {_shown(_signature(rows))}"
        if column.closed or column.writer.rows != self._starts[-1]:
            return False
        column.writer.append(rows)
        return True

    def _persistent(self, samples: int, written: dict[int, int], start: int) -> Callable[[Any], Any]:
        """What stands in a stored batch for an array with a row for each sample."""
        following = start

        def reference(value: Any) -> Any:
            nonlocal following
            if not is_rows(value) or len(value) != samples or not _is_storable(value):
                return None
            number = written.get(id(value))
            if number is None:
                number, following = following, following + 1
                if not self._write(number, _tensor(value)):
                    return None
                written[id(value)] = number
            column = self._columns[number]
            return None if column.closed else ("column", number, isinstance(value, np.ndarray))

        return reference


class Batches(Sequence[Any]):
    """Recorded batches, each read when it is asked for.

    Args:
        columns: arrays with a row for each sample.
        inputs: numbers of the columns that are inputs, by name.
        shut: why an array that may be an input has no column, by its name.
        blobs: the bytes of all batches without their columns.
        starts: number of samples before each batch, and all at the end.
        ends: the same of bytes.
        structure: how batches are built.
        fingerprint: content hash.
    """

    def __init__(self, columns: Sequence[Samples], inputs: Mapping[str, int], shut: Mapping[str, str], blobs: Samples,
                 starts: Sequence[int], ends: Sequence[int], structure: Structure, fingerprint: str) -> None:
        self._columns, self._blobs, self._ends = [*columns], blobs, [*ends]
        self.input_columns, self.shut, self.structure = dict(inputs), dict(shut), structure
        self.starts, self.fingerprint = [*starts], fingerprint

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.starts) - 1

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.starts[-1]

    @property
    def places(self) -> dict[str, tuple[str | None, Samples]] | None:
        """By their places in a batch, all arrays that it holds, with the name of those that are kept as inputs; None
        where it also holds arrays that are not kept by rows."""
        if {"list", "whole"} & {*self.structure.kinds.values()}:
            return None
        names = {number: name for name, number in self.input_columns.items()}
        places = {place: (names.get(number), self._columns[number])
                  for place, number in places_of(self._stored(0)).items()}
        are_rows = {place for place, kind in self.structure.kinds.items() if kind == "tensor"}
        return places if are_rows == places.keys() else None

    def column(self, name: str) -> Samples:
        """The samples of an input; where they have several shapes, `ShapedSamples`. InputError where they have more
        than one type."""
        if name in self.shut:
            raise InputError(f"all samples of the input {name or 'of the network'} must have one shape and type, but "
                             f"{self.shut[name]}: {ONE_SHAPE}")
        return self._columns[self.input_columns[name]]

    def shape_groups(self, names: Collection[str]) -> Tensor | None:
        """Numbers `(N,)` that are the same for samples whose inputs of these names have the same shapes; None where all
        have."""
        return shape_groups([self._columns[self.input_columns[name]] for name in names if name not in self.shut])

    def __getitem__(self, number: Any) -> Any:
        """A batch as it came."""
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        return resolved(self._stored(number), lambda reference: self._read(reference, self._rows(number)))

    def skeleton(self, number: int) -> Any:
        """A batch in which references stand for what is stored by rows."""
        return self._stored(number)

    def entry(self, number: int, find: Callable[[Any], Any]) -> Any:
        """What `find` finds in a batch, of which nothing else is read."""
        return resolved(find(self._stored(number)), lambda reference: self._read(reference, self._rows(number)))

    def gather(self, rows: Tensor) -> Any:
        """The samples of `rows` `(M,)`, in that order, as one batch. InputError where batches cannot be mixed."""
        ordered, order = rows.sort()
        batch_of = np.searchsorted(self.starts, ordered.numpy(), side="right") - 1
        numbers = np.unique(batch_of)
        places = [ordered[torch.from_numpy(batch_of == number)] for number in numbers]
        local = [(place - self.starts[number]).tolist() for place, number in zip(places, numbers, strict=True)]

        def read(reference: Reference, batch: int, whole: bool) -> Any:
            return self._read(reference, self._rows(int(numbers[batch])) if whole else places[batch])

        batch = gathered([self._stored(int(number)) for number in numbers], local, self.structure, read)
        if bool((order[1:] > order[:-1]).all()):
            return batch
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return gathered([batch], [back.tolist()], self.structure, read)

    def _rows(self, number: int) -> slice:
        return slice(self.starts[number], self.starts[number + 1])

    def _stored(self, number: int) -> Any:
        data = self._blobs[self._ends[number]:self._ends[number + 1]]
        return _Unpickler(io.BytesIO(data.numpy().tobytes())).load()

    def _read(self, reference: Reference, rows: Any) -> Any:
        tensor = self._columns[reference.column][rows]
        return tensor.numpy() if reference.is_array else tensor


def inputs_in(batch: Any) -> dict[str, Any]:
    """What a network may read of a batch, by name: all arrays of a mapping or dataclass; of a tuple those of the first
    item, without a name where it is one array, and named `0`, `1`, … where it is a tuple of them."""
    if is_rows(batch):
        return {UNNAMED: batch}
    if isinstance(batch, tuple | list) and not hasattr(batch, "_fields"):
        first = batch[0] if len(batch) else None
        if isinstance(first, tuple | list) and not hasattr(first, "_fields"):
            return {str(i): part for i, part in enumerate(first)} if first and all(map(is_rows, first)) else {}
        return {} if first is None or isinstance(first, str) else inputs_in(first)
    try:
        entries = {key.removeprefix("."): part for key, part in parts(batch)}
    except TypeError:
        return {}
    rows = {key: part for key, part in entries.items() if is_rows(part)}
    lengths = [len(part) for part in rows.values()]
    samples = max(lengths, key=lengths.count, default=0)
    return {key: part for key, part in rows.items() if len(part) == samples}


class _Pickler(pickle.Pickler):
    """Writes batches without what `reference` stands for. Bytes are settled by the values alone: nothing is written
    once for two equal objects that are one."""

    def __init__(self, stream: io.BytesIO, reference: Callable[[Any], Any]) -> None:
        super().__init__(stream, protocol=5)
        self.fast, self._reference = True, reference

    def persistent_id(self, value: Any) -> Any:
        """See `pickle`."""
        return self._reference(value)

    def reducer_override(self, value: Any) -> Any:
        """Tensors by their numbers: torch's own way writes an archive for each."""
        if type(value) is Tensor and _is_storable(value):
            return torch.from_numpy, (value.detach().cpu().contiguous().numpy(),)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    """Reads what `_Pickler` wrote."""

    def persistent_load(self, identity: Any) -> Any:
        """See `pickle`."""
        return Reference(identity[1], identity[2])


def _is_storable(value: Any) -> bool:
    """Whether an array is of plain numbers that torch and numpy both have."""
    if isinstance(value, Tensor):
        return value.layout == torch.strided and value.dtype not in (torch.bfloat16, *_QUANTISED)
    return value.dtype.kind in "biufc" and value.dtype.isnative and value.dtype.itemsize <= 8


_QUANTISED = (torch.quint8, torch.qint8, torch.qint32)


def _listed_objects(batch: Any) -> str:
    """In words, that the first item of a batch is a list of other things than arrays, such as pictures of Pillow."""
    first = batch[0] if isinstance(batch, tuple | list) and len(batch) else None
    if not isinstance(first, tuple | list) or not first or is_rows(first[0]):
        return ":"
    return f", the first of them a list of {type(first[0]).__name__}: make arrays of these, by a transform, or"


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))


def _signature(rows: Tensor) -> tuple[tuple[int, ...], str]:
    return tuple(rows.shape[1:]), str(rows.dtype).removeprefix("torch.")


def _shown(signature: tuple[tuple[int, ...], str]) -> str:
    return f"{signature[1]} {signature[0]}"
