"""TFLite files for Ethos-U, one format for each accelerator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from autocompress.core.layer import Layer, Part
from autocompress.core.plan import Step
from autocompress.errors import TrialError
from autocompress.formats.base import WritableNetwork, Written
from autocompress.formats.tflite.format import TfliteFormat, written
from autocompress.formats.tflite.integers import widths
from autocompress.formats.tflite.rules import lower
from autocompress.formats.tflite.trace import Example, samples_of, trace
from autocompress.formats.vela.compiler import Accelerator
from autocompress.formats.vela.pooling import with_pooled_means
from autocompress.formats.vela.runtime import VelaRuntime
from autocompress.techniques.quantize import QUANTIZE


class VelaFormat(TfliteFormat):
    """TFLite files in 8-bit weights, compiled by Vela for one accelerator: its flash, SRAM and cycles count."""

    packages = ("ethos-u-vela", "ai-edge-litert", "tflite", "flatbuffers")

    def __init__(self, name: str, accelerator: Accelerator) -> None:
        self.name, self.accelerator = name, accelerator
        self.runtime = f"LiteRT, compiled by Vela for {accelerator.name}"

    def legal(self, step: Step, layer: Layer) -> str:
        """Integer weights of 8 bits with integer activations; zeros cost little, because weights are compressed."""
        bits = int(step.args.get("weight_bits", 8))
        if bits not in (8, 32):
            return "Ethos-U computes with weights of 8 bits"
        if step.args.get("grid") or step.args.get("group"):
            return "Ethos-U computes with even levels and one scale for each channel"
        if step.technique == QUANTIZE.name and int(step.args.get("activation_bits", 32)) == 32:
            return "Ethos-U computes with integer activations alone: choose 8 or 16 bits"
        return ""

    def prepare(self, network: nn.Module, example: Tensor | Mapping[str, Tensor]) -> Example:
        """As for LiteRT; what would be left to the processor, because it has no integer kernel, is refused by name."""
        one = samples_of(example, 1)
        graph = lower(trace(network, one))
        layers = {operation.layer for operation in graph.operations if operation.kind != "GATHER"} - {""}
        integers = WritableNetwork(network, {}, activation_bits=dict.fromkeys(layers, 8))
        for operation, width in zip(graph.operations, widths(graph, integers), strict=True):
            if width != 8:
                raise TrialError(f"Ethos-U computes with integers, and {operation.kind} has no integer kernel here")
        return one

    def memory(self, activation_bytes: int, parts: Sequence[Part]) -> int:
        """SRAM: activations, and the weights of one layer, which are fetched before it runs; ten bytes of scale and
        bias for each channel."""
        staged = (part.weights + 10 * part.out_channels for part in parts if part.kind in ("conv", "linear"))
        return activation_bytes + max(staged, default=0)

    def write(self, prepared: Example, network: WritableNetwork, threads: int = 1) -> Written:
        """Lower the network and put the integers of the plan in."""
        return written(prepared, network, lambda graph: None, suited=with_pooled_means)

    def open(self, data: bytes, threads: int = 1) -> VelaRuntime:
        """Load a file in LiteRT; it is compiled when its figures are asked for."""
        return VelaRuntime(data, self.accelerator, threads)

    def checked(self, data: bytes) -> dict[str, Any]:
        """What Vela says of the file."""
        compiled = self.open(data).compiled
        if compiled is None:
            return {}
        return {"compiled": {"accelerator": self.accelerator.name, "system": self.accelerator.system,
                             "memory_mode": self.accelerator.memory, "cycles": compiled.cycles,
                             "sram_bytes": compiled.ram_bytes, "flash_bytes": compiled.flash_bytes,
                             "operators": compiled.operators}}

    def files(self, data: bytes) -> dict[str, bytes]:
        """The model, which LiteRT runs, and the same compiled for the accelerator."""
        compiled = self.open(data).compiled
        return super().files(data) | ({"model_vela.tflite": compiled.data} if compiled else {})


U55_128 = VelaFormat("vela", Accelerator("ethos-u55-128", "Ethos_U55_High_End_Embedded", "Shared_Sram"))
U55_256 = VelaFormat("vela-u55-256", Accelerator("ethos-u55-256", "Ethos_U55_High_End_Embedded", "Shared_Sram"))
U65_256 = VelaFormat("vela-u65-256", Accelerator("ethos-u65-256", "Ethos_U65_High_End", "Dedicated_Sram_384KB"))
U85_256 = VelaFormat("vela-u85-256", Accelerator("ethos-u85-256", "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_512KB"))
