"""The ExecuTorch format: programs whose layers XNNPACK computes, in float or in integers of 8 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from autocompress.core.layer import Layer, Part
from autocompress.core.plan import Receipt, Step
from autocompress.formats.base import Format, WritableNetwork, Written
from autocompress.formats.executorch.loops import require_few_calls
from autocompress.formats.executorch.lowering import program_of
from autocompress.formats.executorch.rounding import Rounded
from autocompress.formats.executorch.runtime import ExecutorchRuntime
from autocompress.formats.executorch.size import program_bytes
from autocompress.formats.ranges import choose_range
from autocompress.formats.running import in_batches
from autocompress.formats.tflite.calibration import observe
from autocompress.formats.tflite.trace import Example, Traced, samples_of, trace


class ExecutorchFormat(Format):
    """Programs of one sample. Layers with 8-bit weights and activations compute in integers, what is between them in
    float. Zeros of sparse weights are stored like other weights."""

    name, suffix, runtime = "executorch", ".pte", "ExecuTorch"
    packages = ("executorch", "torch")

    def legal(self, step: Step, layer: Layer) -> str:
        """Evenly spaced weights of 8 bits with activations of 8 bits, one scale for each channel; or float32."""
        bits, activations = int(step.args.get("weight_bits", 32)), int(step.args.get("activation_bits", 32))
        if bits > 16:
            return ""
        if bits != 8:
            return "XNNPACK's kernels read weights of 8 bits, or float32"
        if step.args.get("group"):
            return "XNNPACK's 8-bit kernels know one scale for each channel"
        if step.args.get("grid", "linear") != "linear":
            return "XNNPACK reads no tables of weights"
        if layer.kind == "recurrent":
            return "its loops read weights of recurrent layers in float32"
        if layer.kind == "conv" and len(layer.kernel) > 2:
            return "XNNPACK has no kernels for convolutions in three directions"
        return "" if activations == 8 else "XNNPACK multiplies integer weights by activations of 8 bits"

    def size(self, parts: Sequence[Part], skeleton_bytes: int = 0, absent: Sequence[Part] = ()) -> int:
        """Count the bytes of every tensor, aligned, and of the entries of layers in the program."""
        return program_bytes(parts, skeleton_bytes)

    def prepare(self, network: nn.Module, example: Tensor | Mapping[str, Tensor]) -> Example:
        """Lower the network once and run it, to find what has no kernel; each file is lowered by itself."""
        one = samples_of(example, 1)
        traced = trace(network, one)
        require_few_calls(traced.nodes, traced.keys)
        runtime = ExecutorchRuntime(_program(traced, one, traced.program.module(check_guards=False)))
        named = {next(iter(traced.inputs.values())): one} if isinstance(one, Tensor) else dict(one.items())
        in_batches(runtime, {name: values.numpy() for name, values in named.items()})
        return one

    def write(self, prepared: Example, network: WritableNetwork, threads: int = 1) -> Written:
        """Trace the network, put the integers of the plan in, and lower it."""
        traced = trace(network.model, prepared)
        rounded = Rounded(traced, network)
        names = {*rounded.ranges_of.values()}
        observed = observe(network.model, prepared, traced, names, network.calibration,
                           network.range_method != "minmax") if names else {}
        ranges = {name: choose_range(of.sample, of.low, of.high, 8, network.range_method)
                  for name, of in observed.items()}
        module = traced.program.module(check_guards=False)
        rounded.put_into(module, ranges)
        receipts = tuple(Receipt(f"{name}:input", "activation-range", {"scale": to.scale, "zero_point": to.zero_point})
                         for name, to in sorted((name, ranges[rounded.ranges_of[node]])
                                                for name, node in rounded.first_read.items()))
        return Written(_program(traced, prepared, module), receipts)

    def open(self, data: bytes, threads: int = 1) -> ExecutorchRuntime:
        """Load a program."""
        return ExecutorchRuntime(data)

    def snippet(self, file: str, inputs: Mapping[str, str], answers: Sequence[str]) -> str:
        """Run the program by ExecuTorch's runtime, one sample."""
        feed = ", ".join(f"torch.as_tensor({variable})[:1]" for variable in inputs.values())
        return ("import torch\nimport executorch.kernels.quantized\nfrom executorch.runtime import Runtime\n\n"
                f'method = Runtime.get().load_program("{file}").load_method("forward")\n'
                f"{', '.join(answers)}{',' if len(answers) == 1 else ''} = method.execute([{feed}])  # of one sample")


def _program(traced: Traced, example: Example, module: nn.Module) -> bytes:
    return program_of(module, (example,), [*traced.inputs.values()], [*traced.outputs])


FORMAT = ExecutorchFormat()
