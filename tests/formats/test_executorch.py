"""ExecuTorch programs under the contract of formats, and what they alone must do. Lowering one takes seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn

from autocompress.core.plan import Plan, Step
from autocompress.core.quiet import silent
from autocompress.errors import TrialError
from autocompress.formats.base import INPUT
from autocompress.formats.executorch.format import FORMAT
from autocompress.formats.executorch.loops import with_loops
from autocompress.formats.executorch.rounding import Rounded, packet
from autocompress.formats.executorch.runtime import HEAD, require_whole
from autocompress.formats.ranges import Range
from autocompress.formats.tflite.trace import samples_of, trace
from autocompress.testing.exporters import integers
from autocompress.testing.format_contract import FormatContract
from autocompress.testing.networks import NETWORKS
from autocompress.testing.techniques import outputs, workbench


@pytest.mark.slow
class TestExecutorch(FormatContract):
    """Convolutions with sums, and a recurrent layer."""

    format, networks = FORMAT, ("residual", "gru")


@pytest.mark.parametrize(("args", "reason"), [
    ({"weight_bits": 4, "activation_bits": 8}, "8 bits"), ({"weight_bits": 8, "activation_bits": 32}, "of 8 bits"),
    ({"weight_bits": 8, "activation_bits": 16}, "of 8 bits"), ({"weight_bits": 16, "activation_bits": 32}, "float32"),
    ({"weight_bits": 8, "activation_bits": 8, "group": 32}, "one scale"),
    ({"weight_bits": 8, "activation_bits": 8, "grid": "codebook"}, "tables"),
    ({"weight_bits": 8, "activation_bits": 8}, "")])
def test_what_it_cannot_hold_is_refused(args: dict[str, int | str], reason: str) -> None:
    layer = workbench("residual").network.table.layers[0]
    told = FORMAT.legal(Step(layer.name, "quantize", args), layer)
    assert reason in told and bool(reason) == bool(told)


def rounded_network() -> tuple[fx.GraphModule, torch.nn.Module, torch.Tensor]:
    """A small network with the integers of a plan, traced and rounded; the network; and inputs."""
    bench = workbench("residual")
    network = bench.network.writer.writable(bench.network.compressor.compress(integers(bench, (8,), 8)))
    example = bench.network.calibration[:1]
    traced = trace(network.model, samples_of(example, 1))
    rounded = Rounded(traced, network)
    module = traced.program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    rounded.put_into(module, dict.fromkeys(rounded.ranges_of.values(), Range(0.05, 128)))
    return module, network.model, example


def test_every_layer_stands_between_roundings_and_reads_integers() -> None:
    module, network, example = rounded_network()
    layers = [node for node in module.graph.nodes if packet(node) in ("conv2d", "linear")]
    assert len(layers) == 5 and not {node.target for node in module.graph.nodes if node.op == "get_attr"} & {
        f"{name}.weight" for name, _ in network.named_modules()}
    for layer in layers:
        source, weight = layer.args[:2]
        (end,) = layer.users
        end = next(iter(end.users)) if packet(end) == "relu" else end
        assert "dequantize_per_tensor" in source.name and list(source.users) == [layer]
        assert "dequantize_per_channel" in weight.name and module.get_buffer(weight.args[0].target).dtype == torch.int8
        assert "quantize_per_tensor" in end.name
    expected = outputs(network, example)
    assert (module(example) - expected).abs().max() / expected.abs().max() < 0.2


def test_a_layer_reads_the_integers_that_the_one_before_puts_out() -> None:
    module, _, _ = rounded_network()
    codes = [node for node in module.graph.nodes if node.name.startswith("quantize_per_tensor")]
    assert len(codes) == len({node.args[0] for node in codes}), "a value is rounded once"


@pytest.mark.parametrize("data", [b"", b"ET12", bytes(64), HEAD.pack(b"ET", b"eh00", 32, 64, 128, 500) + bytes(100)],
                         ids=["empty", "short", "zeros", "truncated"])
def test_what_is_no_whole_program_is_refused(data: bytes) -> None:
    with pytest.raises(TrialError, match="ExecuTorch program"):
        require_whole(data)


@pytest.mark.slow
def test_integers_are_integers_in_the_file_and_answers_come_near() -> None:
    bench = workbench("residual", FORMAT)
    compressed = bench.network.compressor.compress(integers(bench, (8,), 8))
    data = bench.network.write(compressed).data
    assert len(data) < 0.6 * len(bench.network.writer.original_file)
    for weight in bench.network.writer.writable(compressed).integers.values():
        levels = weight.levels if weight.levels.dim() == 2 else weight.levels.permute(0, 2, 3, 1)
        assert levels.contiguous().numpy().tobytes() in data, "XNNPACK has channels last"
    inputs = bench.network.calibration.numpy()
    answers = FORMAT.open(data).run({INPUT: inputs})["output"]
    expected = outputs(compressed.model, bench.network.calibration).numpy()
    assert np.abs(answers - expected).max() / np.abs(expected).max() < 0.05


@pytest.mark.parametrize(("cell", "options"), [
    (nn.GRU, {"num_layers": 2, "bidirectional": True}), (nn.LSTM, {"bias": False, "bidirectional": True}),
    (nn.RNN, {"nonlinearity": "tanh"}), (nn.RNN, {"nonlinearity": "relu"})], ids=["gru", "lstm", "tanh", "relu"])
def test_a_recurrent_layer_is_one_step_in_a_loop_however_long_the_sequence(cell: type[nn.RNNBase],
                                                                           options: dict[str, Any]) -> None:
    network = cell(3, 4, batch_first=True, **options).eval()
    sizes = set()
    for steps in (2, 40):
        inputs = torch.randn(1, steps, 3, generator=torch.Generator().manual_seed(0))
        with silent(), torch.no_grad():
            looped = with_loops(torch.export.export(network, (inputs,)))
            answers, expected = looped.module()(inputs), network(inputs)
        torch.testing.assert_close(answers, expected)
        sizes.add(sum(len(module.graph.nodes) for module in looped.graph_module.modules()
                      if isinstance(module, fx.GraphModule)))
    assert len(sizes) == 1


class Unrolled(nn.Module):
    """A cell that the network calls for each step of a sequence `(N, T, 3)` by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(7, 4)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        """The last state `(N, 4)`."""
        state = sequence.new_zeros(len(sequence), 4)
        for step in sequence.unbind(1):
            state = self.cell(torch.cat((step, state), 1)).tanh()
        return state


def test_a_loop_that_is_written_out_is_refused_before_it_is_lowered() -> None:
    FORMAT.prepare(Unrolled(), torch.zeros(2, 2, 3))
    with pytest.raises(TrialError, match=r"at most 32, and cell\.\w+ is read by 33.*nn\.GRU"):
        FORMAT.prepare(Unrolled(), torch.zeros(2, 33, 3))


def test_integers_of_recurrent_layers_are_refused() -> None:
    layer = workbench("gru").network.table.layers[0]
    assert "recurrent" in FORMAT.legal(Step(layer.name, "quantize", {"weight_bits": 8, "activation_bits": 8}), layer)


@pytest.mark.slow
def test_a_network_without_a_kernel_is_refused() -> None:
    network = NETWORKS["volume"]
    with pytest.raises(TrialError, match="ExecuTorch"):
        FORMAT.prepare(network.make(), network.data().train.inputs[:2])


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_truncated_file_is_refused(share: float) -> None:
    bench = workbench("mlp", FORMAT)
    data = bench.network.write(bench.network.compressor.compress(Plan())).data
    with pytest.raises(TrialError, match="ExecuTorch program"):
        FORMAT.open(data[:int(len(data) * share)])
