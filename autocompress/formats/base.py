"""The protocol of a file format: how a compressed network becomes a file, and how that file is run.

`Format` is implemented once for each format, as an object without state; `Runtime` is one loaded file. Inherit from
both: what a format need not say has a default here. `autocompress.testing.format_contract.FormatContract` holds an
implementation to what is written here; `docs/extending.md` walks through an example.

A format requires of its callers that `write` gets what `prepare` made of a network with the same blocks, and that the
network handed over is folded, in eval mode and on the CPU. It ensures that a written file computes what that network
computes (`integers`, `halves` and `masks` included, exactly; integer activations nearly), that equal networks give
equal bytes, that `legal` names beforehand what `write` would have to refuse, and that nothing is stored in another
width than was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from autocompress.core.format_facts import FormatFacts
from autocompress.core.layer import LayerTable, Part
from autocompress.core.plan import Receipt
from autocompress.core.spans import Span
from autocompress.errors import InputError, TrialError
from autocompress.formats.table import MODEL
from autocompress.tensors.names import OUTPUT

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["INPUT", "OUTPUT", "Arrays", "Format", "IntegerWeight", "Mask", "Reading", "Runtime", "TrialError",
           "WritableNetwork", "Written"]

# Name of the input of a network that has one; its output is called `OUTPUT`.
INPUT = "input"

# Arrays by the name of the input or output, each with the samples as its first axis.
Arrays = Mapping[str, np.ndarray]


class IntegerWeight(Protocol):
    """A weight of 1 to 8 bits: int8 levels times a scale for each output channel, or for each run of one."""

    @property
    def bits(self) -> int:
        """Width, 1 to 8."""

    @property
    def levels(self) -> Tensor:
        """Levels, int8, of the weight's shape."""

    @property
    def scale(self) -> Tensor:
        """Scales, float32 `(C,)`."""

    @property
    def table(self) -> Tensor | None:
        """Legal levels, int8 `(2**bits,)`, ascending, where they are not evenly spaced."""

    @property
    def group(self) -> int:
        """Weights of a row that share a factor on the scale; 0 for none."""

    @property
    def factors(self) -> Tensor | None:
        """Factors on the scale, uint8 `(C, runs)`, with a `group`."""


class Mask(Protocol):
    """Which weights of a sparse layer are kept."""

    @property
    def pattern(self) -> str:
        """`unstructured` or n:m."""

    @property
    def kept(self) -> Tensor:
        """Flags, bool, of the weight's shape: False where the weight is zero."""


@dataclass(frozen=True)
class WritableNetwork:
    """A network as a file is to hold it: the module that computes the answers, and how each weight is stored.

    Modules are named as in `model`, factors of a decomposed layer one by one (`fc.0`, `fc.1`). Weights that no other
    field names are stored in float32.
    """

    # The network with its norms folded; quantised weights have the values of `integers`, dequantised.
    model: nn.Module
    # Executed layers by layer of the original, in order of execution; nothing where a block is dropped.
    parts: Mapping[str, tuple[Part, ...]]
    # Weights to store as integers.
    integers: Mapping[str, IntegerWeight] = field(default_factory=dict)
    # Modules whose weights are stored as float16.
    halves: Collection[str] = ()
    # Width, 8 or 16, of the input and output of modules that compute in integers; each is among `integers`.
    activation_bits: Mapping[str, int] = field(default_factory=dict)
    # Masks of sparse weights.
    masks: Mapping[str, Mask] = field(default_factory=dict)
    # Normalised inputs from which ranges of activations are taken.
    calibration: Arrays = field(default_factory=dict)
    # How a range is chosen: a method of `formats/ranges.py`.
    range_method: str = "minmax"

    @property
    def in_float(self) -> WritableNetwork:
        """The same network with every weight in float32 and no integer activation."""
        return replace(self, integers={}, halves=(), activation_bits={}, masks={})


@dataclass(frozen=True)
class Written:
    """What a format writes of a network.

    Args:
        data: the bytes of the file.
        receipts: what was settled while it was written, such as ranges of activations.
    """

    data: bytes
    receipts: tuple[Receipt, ...] = ()


@dataclass(frozen=True)
class Reading:
    """How long one inference took.

    Args:
        cpu_seconds: CPU time of the thread or process that computes.
        wall_seconds: wall time.
    """

    cpu_seconds: float
    wall_seconds: float


class Runtime(Protocol):
    """One loaded file."""

    # Whether this runtime or a compiler tells the bytes of RAM and flash, and the latency, that it has.
    source: Literal["measured", "compiled"] = "measured"

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run the file on a batch.

        Args:
            inputs: arrays `(N, …)` by name, of any number N of samples.

        Returns:
            Outputs `(N, …)` by name.

        Raises:
            TrialError: when the runtime fails on it.
        """
        raise NotImplementedError

    def time(self, inputs: Arrays, runs: int = 1) -> Reading:
        """Time an inference as the mean of several in a row. A runtime in another process reads its clocks there.

        Args:
            inputs: arrays `(N, …)` by name.
            runs: how many.

        Returns:
            Seconds of one inference.
        """
        wall, cpu = time.perf_counter(), time.thread_time()
        for _ in range(runs):
            self.run(inputs)
        return Reading((time.thread_time() - cpu) / runs, (time.perf_counter() - wall) / runs)

    @property
    def free_axes(self) -> dict[str, tuple[int, ...]]:
        """Axes of each input, by name, whose size may be another than that of the example, beside axis 0, that of the
        samples."""
        return {}

    @property
    def peak_memory_bytes(self) -> int | None:
        """Bytes of RAM that activations take in this runtime, as it measured them, such as an arena; None where it
        measures none, and the estimate stands."""
        return None

    @property
    def flash_bytes(self) -> int | None:
        """Bytes of flash that the file takes on the device, as its compiler told; None where it has none, and the bytes
        of the file stand."""
        return None

    @property
    def latency_ms(self) -> float | None:
        """Milliseconds of one inference on the device, as its compiler counted them; None where it has none, and the
        estimate stands."""
        return None

    def close(self) -> None:
        """End what the runtime holds outside this process."""
        return None


class Format(FormatFacts, Protocol):
    """One file format with its writer, its size model and its runtime."""

    # Name for profiles and the command line, such as `onnx`.
    name: str
    # Ending of the file's name, such as `.onnx`.
    suffix: str
    # The runtime in words, such as `ONNX Runtime`.
    runtime: str
    # What users call to get a file of this format without autocompress, such as `torch.onnx.export`.
    converter: str = ""
    # Distributions whose versions the manifest keeps.
    packages: tuple[str, ...] = ()
    # Whether the runtime here answers faster in 8-bit integers than torch in floats. The original's 8-bit file then
    # teaches candidates in its place; interpreters for other devices, and torch itself, do not.
    runs_integers_fast: bool = True

    def prepare(self, network: nn.Module, example: Tensor | Mapping[str, Tensor]) -> Any:
        """Do once for a network what all files of its compressed versions share, such as exporting its graph.

        Args:
            network: the original, or the original without some blocks; folded, in eval mode.
            example: what the network is called with, of two samples; their number must stay free in the file.

        Returns:
            What `write` is given as `prepared`: anything, or None.

        Raises:
            TrialError: when the format cannot hold the network.
        """
        raise NotImplementedError

    def with_free_sizes(self, free: bool = True) -> Format:
        """The same format whose files take inputs of any size (height, width, length) that the network takes.

        Args:
            free: False for files of the one size of the example.

        Raises:
            InputError: where files of this format have fixed sizes.
        """
        if not free:
            return self
        raise InputError(f"{self.name} files have inputs of a fixed size: leave out --dynamic, or choose another "
                         "format")

    def packed(self, prepared: Any) -> bytes | None:
        """What `prepare` made as bytes, so that a later process need not make it again; None where it takes no time.

        Args:
            prepared: what `prepare` made.
        """
        return None

    def unpacked(self, data: bytes) -> Any:
        """What `prepare` made, of its bytes.

        Args:
            data: what `packed` returned.
        """
        return None

    def described(self, table: LayerTable, prepared: Any, network: WritableNetwork) -> LayerTable:
        """The facts about the original completed by what the format adds: the bytes of its file that hold no parameter
        of a layer, and reasons why layers that it does not show as such cannot be compressed.

        Args:
            table: facts about the original.
            prepared: what `prepare` made of it.
            network: the original itself, nothing compressed.
        """
        import msgspec

        executed = [part for parts in network.parts.values() for part in parts]
        rest = len(self.write(prepared, network).data) - self.size(executed)
        return msgspec.structs.replace(table, skeleton_bytes=rest)

    def write(self, prepared: Any, network: WritableNetwork, threads: int = 1) -> Written:
        """Write the file of a network. Equal networks give equal bytes.

        Args:
            prepared: what `prepare` made of the original without the blocks that the network lacks, or of the network
                itself.
            network: what the file is to hold.
            threads: CPU threads for measuring ranges.

        Returns:
            The bytes of the file, with receipts.

        Raises:
            TrialError: when it cannot be written; the network is then prepared by itself, and tried once more.
        """
        raise NotImplementedError

    def open(self, data: bytes, threads: int = 1) -> Runtime:
        """Load a file. With one thread the calling thread does all the work, and latency can be measured.

        Args:
            data: the bytes of the file.
            threads: CPU threads that the runtime may use.

        Returns:
            The loaded file.

        Raises:
            TrialError: when the runtime refuses the file.
        """
        raise NotImplementedError

    def open_on(self, device: str, data: bytes, threads: int = 1) -> Runtime:
        """Load a file for scoring beside trainings on a device. Left as it is: as `open`.

        Args:
            device: of torch, such as `cpu` or `cuda:1`.
            data: the bytes of the file.
            threads: CPU threads that the runtime may use.

        Returns:
            The loaded file, which may answer a little otherwise than that of `open`; latency is never measured on it.

        Raises:
            TrialError: when the runtime refuses the file.
        """
        return self.open(data, threads)

    def plain(self, network: nn.Module, example: Tensor | Mapping[str, Tensor]) -> bytes:
        """Convert the untouched network as its user would without autocompress, for comparison.

        Args:
            network: the original, in eval mode.
            example: what it is called with, of two samples.

        Returns:
            The bytes of the file.

        Raises:
            TrialError: when there is no such converter, or when it fails.
        """
        raise TrialError(f"{self.name} files are written by autocompress alone")

    def checked(self, data: bytes) -> dict[str, Any]:
        """Check a file before it ships.

        Args:
            data: the bytes of the file.

        Returns:
            What was proved, by key of the manifest.

        Raises:
            AutocompressError: when the file may answer differently elsewhere.
        """
        return {}

    def tensor_spans(self, data: bytes) -> dict[str, Span]:
        """Where a file holds its tensors, by name in order, so that updates are told tensor by tensor; empty where that
        is not known.

        Args:
            data: the bytes of the file.

        Raises:
            TrialError: when the bytes are no file of the format.
        """
        return {}

    def integer_levels(self, data: bytes) -> list[np.ndarray] | None:
        """Levels of the integer weights of a file, `data`, int8 `(C, n)` each, a row for each output channel, in which
        they may have any order; None where they cannot be read back.

        Raises:
            TrialError: when the bytes are no file of the format.
        """
        return None

    def without_names(self, data: bytes) -> bytes:
        """The file `data` without names of layers; those of inputs and outputs stay. The file itself, where the format
        writes none."""
        return data

    def files(self, data: bytes) -> dict[str, bytes]:
        """Files that ship for the bytes of one file, `data`, by name, the one that runs first."""
        return {f"{MODEL}{self.suffix}": data}

    def snippet(self, file: str, inputs: Mapping[str, str], answers: Sequence[str]) -> str:
        """Python lines that run a file and assign its outputs.

        Args:
            file: its name.
            inputs: the variable with the array by the name of the input.
            answers: variables for the outputs, in order.
        """
        return f"# {', '.join(answers)}: what {self.runtime} answers to {', '.join(inputs.values())} with {file}"
