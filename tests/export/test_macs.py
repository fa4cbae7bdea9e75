"""MACs by counters without a blind spot in common: of the network's operators, of the exported file's nodes run for
their shapes, of the facts of the trace; and by hand."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.backend.canonical.attention import with_open_heads
from autocompress.backend.graph.macs import count_macs
from autocompress.backend.graph.trace import trace
from autocompress.backend.network.fold import fold_norms
from autocompress.core.plan import Plan, Step
from autocompress.core.sensitivity import SensitivityTable
from autocompress.estimate import estimate
from autocompress.formats.onnx.template import export_template
from autocompress.formats.onnx.writer import float_bytes
from autocompress.hardware.profile import load_profile
from autocompress.space.solver.problem import Problem, State
from autocompress.space.space import build_space
from autocompress.space.spec import load_space
from autocompress.study.workbench import Workbench
from autocompress.tasks.vision import import_torchvision
from autocompress.testing.networks import NETWORKS, task_data
from autocompress.testing.techniques import state_hash, workbench

HOST = load_profile("host")


def file_macs(data: bytes, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of a file at batch 1: its nodes say what is multiplied, a run how large the tensors are."""
    model = onnx.load_model_from_string(data)
    names = [name for node in model.graph.node for name in node.output if name]
    outputs = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    example = np.zeros((1, *shape), np.int64 if entry.type == "tensor(int64)" else np.float32)
    results = session.run([value.name for value in session.get_outputs()], {entry.name: example})
    shapes = {value.name: np.shape(result) for value, result in zip(session.get_outputs(), results, strict=True)}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer} | {entry.name: example.shape}
    return sum(_node_macs(node, [shapes.get(name, ()) for name in node.input], shapes[node.output[0]])
               for node in model.graph.node if node.output and node.output[0])


def _node_macs(node: onnx.NodeProto, inputs: list[tuple[int, ...]], output: tuple[int, ...]) -> int:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        return prod(output) * prod(inputs[1][1:])
    if node.op_type == "ConvTranspose":
        return prod(inputs[0]) * prod(inputs[1][1:])
    if node.op_type in ("Gemm", "MatMul"):
        inner = inputs[0][0] if attributes.get("transA") else inputs[0][-1]
        return prod(output) * inner
    if node.op_type in ("LSTM", "GRU"):
        return prod(inputs[0][:2]) * (prod(inputs[1]) + prod(inputs[2]))  # length and batch, by both matrices
    assert node.op_type not in ("Einsum", "Attention", "RNN", "MultiHeadAttention"), "this counter must learn it"
    return 0


class Attention(nn.Module):
    """Tokens through torch's own attention and a bare product."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 16), nn.Linear(16, 5)
        self.mha = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        y = y + self.mha(y, y, y, need_weights=False)[0]
        y = y + torch.softmax(y @ y.transpose(1, 2), -1) @ y
        return self.head(self.pool(y))

    def pool(self, y: Tensor) -> Tensor:
        return y.mean(1)


class OneQuery(Attention):
    """The same, pooled by attention of a single query."""

    def pool(self, y: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(y.mean(1, keepdim=True), y, y)[:, 0]


class Bare(nn.Module):
    """Kernels that no module owns, einsum, a transposed convolution, a layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.mix = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(8, 6))
        self.up, self.twice = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(F.conv2d(x, self.kernel, stride=2))
        y = self.twice(self.twice(self.up(y)))
        return self.head(torch.einsum("nchw,cd->ndhw", y, self.mix).mean((2, 3)))


class Recurrent(nn.Module):
    """Two directions, two layers, biases that count nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


ATTENTION = 7 * 3 * 16 + 4 * 7 * 16 * 16 + 2 * 7 * 7 * 16 + 2 * 7 * 7 * 16 + 16 * 5
BARE = 4 * 4 * 8 * 27 + 4 * 4 * 8 * 4 * 4 + 2 * 8 * 8 * 8 * 72 + 8 * 8 * 8 * 6 + 6 * 5
RECURRENT = 5 * 2 * (4 * 6 * (4 + 6) + 4 * 6 * (12 + 6)) + 12 * 3


@pytest.mark.parametrize(("make", "shape", "by_hand"), [
    (Attention, (7, 3), ATTENTION), (OneQuery, (7, 3), ATTENTION + 2 * 1 * 7 * 16), (Bare, (3, 9, 9), BARE),
    (Recurrent, (5, 4), RECURRENT),
], ids=["attention", "one query", "bare", "recurrent"])
def test_what_modules_do_not_show_is_counted(make: type[nn.Module], shape: tuple[int, ...], by_hand: int) -> None:
    torch.manual_seed(0)
    model = make().eval()
    assert count_macs(model, shape) == by_hand
    opened, _ = with_open_heads(model, torch.randn(4, *shape))
    assert count_macs(opened, shape) == by_hand
    assert estimate(trace(opened, shape)[0], Plan(), HOST)["macs"] == by_hand


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_network_file_and_facts_agree(network: str) -> None:
    bench = workbench(network)
    folded = fold_norms(bench.network.compressor.restructure(Plan()), bench.network.table).model
    counted = count_macs(folded, bench.network.task.input_shape, bench.network.task.dtype)
    assert file_macs(bench.network.writer.original_file, bench.network.task.input_shape) == counted
    assert estimate(bench.network.table, Plan(), bench.evaluator.profile)["macs"] == counted


def test_network_and_file_agree_on_attention_and_bare_products() -> None:
    torch.manual_seed(0)
    for model, shape in ((Attention(), (7, 3)), (Recurrent(), (5, 4))):
        template = export_template(model.eval(), torch.zeros(2, *shape))
        assert file_macs(float_bytes(template, model), shape) == count_macs(model, shape)


def test_pruned_heads_take_their_products_along(tmp_path: Path) -> None:
    """A head of `d` channels, at `t` tokens of `c`, computes 4·t·c·d in projections and 2·t·t·d in products."""
    torch.manual_seed(0)
    bench = Workbench(Attention().eval(), task_data((7, 3)), HOST, seed=0, folder=tmp_path, epochs=1)
    (group,) = [group for group in bench.network.table.groups if group.heads]
    for keep in (1, 2, 3, 4):
        plan = Plan.of([Step(group.name, "prune", {"keep": keep})]) if keep < 4 else Plan()
        folded = fold_norms(bench.network.compressor.restructure(plan), bench.network.table).model
        assert count_macs(folded, (7, 3)) == ATTENTION - (4 - keep) * (4 * 7 * 16 * 4 + 2 * 7 * 7 * 4)
        assert estimate(bench.network.table, plan, HOST)["macs"] == count_macs(folded, (7, 3))


def test_the_solver_counts_the_products_that_heads_take_along(tmp_path: Path) -> None:
    """What a bound on MACs is solved with and the estimate of the plan must not part."""
    torch.manual_seed(0)
    bench = Workbench(Attention().eval(), task_data((7, 3)), HOST, seed=0, folder=tmp_path, epochs=1)
    space = build_space(bench.network.table, load_space("prune-only"), HOST)
    group = next(group for group in bench.network.table.groups if group.heads)
    problem = Problem(space, SensitivityTable.read({"prune": {group.name: {3: 0.1, 2: 0.2, 1: 0.4}}}))
    for level in range(4):
        state = State({group.name: level}, dict.fromkeys(problem.layers, 0))
        plan = space.decode(problem.values(state))
        counted = problem.additive_costs(state)[problem.metrics.index("macs")]
        assert len(plan.steps) == (level > 0)
        assert estimate(bench.network.table, plan, HOST)["macs"] == pytest.approx(counted, abs=1)


def test_resnet() -> None:
    """Of 32 × 32 pixels: 16 × 16 behind the first layer, 8 × 8 behind the pooling, then halved three times."""
    model: nn.Module = import_torchvision().models.resnet18(num_classes=10).eval()
    stages = [8 * 8 * 4 * 9 * 64 * 64] + [
        side * side * (c * c // 2 * 10 + 3 * 9 * c * c) for side, c in ((4, 128), (2, 256), (1, 512))]
    assert count_macs(model, (3, 32, 32)) == 16 * 16 * 147 * 64 + sum(stages) + 512 * 10


def test_counting_leaves_the_model_alone() -> None:
    bench = workbench("chain")
    before = state_hash(bench.network.model)
    count_macs(bench.network.model, bench.network.task.input_shape)
    assert state_hash(bench.network.model) == before
    assert not [name for name, _ in bench.network.model.named_buffers() if "total_" in name]


def test_a_network_that_needs_real_values_is_counted_all_the_same() -> None:
    class Reading(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if float(x.sum()) < 1 else x

    assert count_macs(Reading(8, 4), (8,)) == 32
