"""Residual blocks: found by what the graph does, dropped for good."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.graph.residual_blocks import drop_blocks, find_blocks
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError
from autocompress.estimate import estimate
from autocompress.formats.onnx.runtime import Runtime
from autocompress.techniques.apply import check_plan
from autocompress.testing.exporters import integers
from autocompress.testing.networks import NETWORKS, Residual
from autocompress.testing.techniques import outputs, workbench


def test_the_block_whose_shortcut_keeps_the_shape_is_found() -> None:
    (block,) = find_blocks(NETWORKS["residual"].make(), torch.zeros(2, 3, 12, 12))
    assert block.name == "bn1"
    assert block.layers == ("conv1", "bn1")


@pytest.mark.parametrize(("name", "expected"), [
    ("resnet18", {"layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"}),
    ("mobilenet_v2", {f"features.{i}.conv" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)}),
    ("vgg11_bn", set()),
])
def test_blocks_of_known_networks(name: str, expected: set[str]) -> None:
    from autocompress.tasks.vision import mend_torchvision

    mend_torchvision()
    import torchvision

    model = getattr(torchvision.models, name)().eval()
    assert {block.name for block in find_blocks(model, torch.zeros(2, 3, 64, 64))} == expected


def test_dropping_is_a_branch_that_adds_nothing() -> None:
    model = NETWORKS["residual"].make()
    silent = copy.deepcopy(model)
    assert isinstance(silent, Residual)
    nn.init.zeros_(silent.bn1.weight)
    nn.init.zeros_(silent.bn1.bias)
    inputs = torch.randn(4, 3, 12, 12)
    dropped = drop_blocks(copy.deepcopy(model), ["bn1"])
    torch.testing.assert_close(outputs(dropped, inputs), outputs(silent, inputs))
    names = dict(dropped.named_modules())
    assert "conv1" not in names and "bn1" not in names and "conv2" in names


def test_blocks_in_a_row_are_dropped_together() -> None:
    class Row(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.last = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x + torch.relu(self.first(x))
            x = x + torch.relu(self.second(x))
            scores: Tensor = self.last(x)
            return scores

    model, inputs = Row().eval(), torch.randn(5, 6)
    assert [block.name for block in find_blocks(model, inputs)] == ["first", "second"]
    for names in (["first", "second"], ["second", "first"]):
        torch.testing.assert_close(outputs(drop_blocks(copy.deepcopy(model), names), inputs),
                                   outputs(model.last, inputs))


def test_two_branches_of_one_module_have_names_of_their_own() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.attn = nn.LayerNorm(6), nn.Linear(6, 6)
            self.norm2, self.mlp = nn.LayerNorm(6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attn(self.norm1(x))
            total: Tensor = x + self.mlp(self.norm2(x))
            return total

    model, inputs = nn.Sequential(Pair(), nn.Linear(6, 3)).eval(), torch.randn(5, 6)
    assert [block.name for block in find_blocks(model, inputs)] == ["0.attn", "0.mlp"]
    x = inputs + model[0].attn(model[0].norm1(inputs))
    torch.testing.assert_close(outputs(drop_blocks(copy.deepcopy(model), ["0.mlp"]), inputs), model[1](x).detach())


def test_what_reads_inside_or_feeds_from_outside_is_no_block() -> None:
    class Tangled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            inner = self.first(x)
            total = x + self.second(inner)
            scores: Tensor = self.last(total + inner)
            return scores

    assert find_blocks(Tangled().eval(), torch.randn(5, 6)) == ()


def test_a_dropped_block_with_everything_else() -> None:
    """drop → prune → quantise: predicted and real parameters agree, and the file computes what the network does."""
    bench = workbench("residual")
    gone = bench.network.table.gone(["bn1"])
    steps = [Step("bn1", "drop", {})]
    steps += [Step(g.name, "prune", {"keep": g.channels // 2}) for g in bench.network.table.groups
              if any(m.layer not in gone for m in g.members)]
    steps += [step for step in integers(bench, (4,), 32).steps if step.site not in gone]
    plan = Plan.of(steps)
    check_plan(bench.network.table, plan, bench.evaluator.profile)
    evaluation = bench.evaluator.evaluate(plan, 0)
    assert evaluation.metrics["params"] < bench.evaluator.baseline()["params"]
    predicted = estimate(bench.network.table, plan, bench.evaluator.profile)
    assert abs(predicted["size_bytes"] - evaluation.metrics["size_bytes"]) < 600
    assert predicted["macs"] == pytest.approx(evaluation.metrics["macs"], rel=0.02)


def test_plans_that_drop_the_same_share_a_graph_and_nothing_else() -> None:
    """The graph kept for a set of dropped blocks is that of the original, not of the first plan that dropped them."""
    bench = workbench("residual")
    drop = Step("bn1", "drop", {})
    factored = Step("conv2", "decompose", {"method": "tucker2", "rank_in": 4, "rank_out": 8})
    for steps in ([drop, factored], [drop], [drop, Step("conv2", "decompose", {"method": "channel-svd", "rank": 6})]):
        compressed = bench.network.compressor.compress(Plan.of(steps))
        scores = Runtime(bench.network.write(compressed).data).run(bench.network.calibration.numpy())
        np.testing.assert_allclose(
            scores, outputs(compressed.model, bench.network.calibration).numpy(), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(("steps", "message"), [
    ([Step("conv2", "drop", {})], "'conv2' is none of bn1"),
    ([Step("bn1", "drop", {"depth": 1})], "takes no arguments"),
    ([Step("bn1", "drop", {}), Step("conv1", "quantize", {"weight_bits": 8, "activation_bits": 8})],
     "the block of conv1 is dropped"),
])
def test_illegal_steps_say_why(steps: list[Step], message: str) -> None:
    bench = workbench("residual")
    with pytest.raises(InputError, match=message):
        check_plan(bench.network.table, Plan.of(steps), bench.evaluator.profile)
