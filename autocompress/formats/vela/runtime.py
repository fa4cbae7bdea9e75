"""Files for Ethos-U: answers from LiteRT, whose integers the accelerator computes too; all other figures from Vela."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from autocompress.formats.tflite.runtime import Runtime
from autocompress.formats.vela.compiler import Accelerator, Compiled, compile_file


class VelaRuntime(Runtime):
    """One .tflite file, run by LiteRT and compiled by Vela when its figures are asked for.

    A file of which the processor would compute a part, such as one in floats, has none of these figures.
    """

    source: Literal["measured", "compiled"] = "compiled"

    def __init__(self, data: bytes, accelerator: Accelerator, threads: int = 1) -> None:
        super().__init__(data, threads)
        self._data, self._accelerator = data, accelerator

    @cached_property
    def compiled(self) -> Compiled | None:
        """The compiled file; None where the accelerator does not compute all of it."""
        if not all(end.scale for end in self._ends.inputs):
            return None
        compiled = compile_file(self._data, self._accelerator)
        return None if compiled.on_cpu else compiled

    @property
    def peak_memory_bytes(self) -> int | None:
        """SRAM in bytes."""
        return self.compiled.ram_bytes if self.compiled else None

    @property
    def flash_bytes(self) -> int | None:
        """Bytes of weights after their compression, scales and biases."""
        return self.compiled.flash_bytes if self.compiled else None

    @property
    def latency_ms(self) -> float | None:
        """Milliseconds of one inference, by Vela's count of cycles."""
        return 1e3 * self.compiled.seconds if self.compiled else None
