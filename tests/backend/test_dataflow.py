"""From a traced network to its peak memory: input and output count, views do not, what is needed later is held."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.graph.trace import trace
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan, Step
from autocompress.estimate import estimate
from autocompress.hardware.profile import load_profile

HOST, BOARD = load_profile("host"), load_profile("stm32h743")


def table_of(model: nn.Module, shape: tuple[int, ...]) -> LayerTable:
    torch.manual_seed(0)
    return trace(model.eval(), shape)[0]


def peak(model: nn.Module, shape: tuple[int, ...]) -> int:
    return int(estimate(table_of(model, shape), Plan(), HOST)["peak_memory_bytes"])


class Residual(nn.Module):
    """Two convolutions with a shortcut across both, and `steps` that change nothing of the amount of memory."""

    def __init__(self, *steps: nn.Module, shortcut: bool = True) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.steps, self.shortcut, self.head = nn.Sequential(*steps), shortcut, nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.steps(self.b(torch.relu(self.a(x))))
        return self.head((x + y if self.shortcut else y).mean((2, 3)))


class Parts(nn.Module):
    """Halves of a tensor by chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.head = nn.Conv2d(1, 16, 1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.wide(x).chunk(2, 1)
        return self.head(torch.cat([torch.relu(left), right], 1).mean((2, 3)))


def test_an_input_that_dominates_is_the_peak() -> None:
    """48 kB of pixels beside 4 kB of everything else."""
    model = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
    assert peak(model, (3, 64, 64)) == 4 * (3 * 64 * 64 + 4 * 16 * 16)


def test_doubling_the_resolution_quadruples_the_peak() -> None:
    small, large = peak(Residual(), (1, 8, 8)), peak(Residual(), (1, 16, 16))
    assert large == 4 * small


def test_an_output_that_dominates_is_the_peak() -> None:
    assert peak(nn.Sequential(nn.Linear(4, 1000)), (4,)) == 4 * (4 + 1000)


def test_a_shortcut_is_held_until_it_is_added() -> None:
    pixels = 4 * 64 * 8
    assert peak(Residual(shortcut=False), (1, 8, 8)) == 2 * pixels
    assert peak(Residual(), (1, 8, 8)) == 3 * pixels


@pytest.mark.parametrize("step", [nn.Flatten(2), nn.Identity(), nn.Dropout(), nn.ReLU(), nn.ReLU(inplace=True)],
                         ids=lambda step: type(step).__name__)
def test_views_and_what_works_in_place_take_no_memory(step: nn.Module) -> None:
    steps = [step, nn.Unflatten(2, (8, 8))] if isinstance(step, nn.Flatten) else [step]
    assert peak(Residual(*steps), (1, 8, 8)) == peak(Residual(), (1, 8, 8))


def test_a_view_of_what_is_needed_later_is_no_second_tensor() -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Conv2d(1, 8, 1), nn.Linear(512, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.head(y.flatten(1)) + y.mean((1, 2, 3))[:, None]

    assert peak(Viewed(), (1, 8, 8)) == 4 * (64 + 8 * 64)


def test_an_activation_function_on_what_is_needed_later_is_one() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Conv2d(1, 8, 1), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            z = y.flatten(2)
            return self.head((torch.sigmoid(y) * z.unflatten(2, (8, 8))).mean((2, 3)))

    assert peak(Gated(), (1, 8, 8)) == 4 * 3 * 8 * 64


def test_halves_of_a_tensor_shrink_with_it() -> None:
    table = table_of(Parts(), (1, 8, 8))
    group = next(group for group in table.groups if group.name == "wide")
    full = estimate(table, Plan(), HOST)["peak_memory_bytes"]
    half = estimate(table, Plan.of([Step("wide", "prune", {"keep": group.channels // 2})]), HOST)["peak_memory_bytes"]
    assert half < full
    assert {activation.sources for activation in table.activations} == {(), ("wide",), ("head",)}


def test_what_is_made_of_weights_alone_is_no_activation() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4, 1000))

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) * torch.exp(self.scale).mean(1)

    assert peak(Scaled(), (4,)) == 4 * 8


def test_a_board_of_integers_takes_its_input_in_integers() -> None:
    """One byte a pixel where the device knows no floats, four where the file's input is float32."""
    table = table_of(nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Flatten(), nn.Linear(1024, 10)), (3, 64, 64))
    plan = Plan.of([Step(layer.name, "quantize", {"weight_bits": 8, "activation_bits": 8}) for layer in table.layers])
    assert estimate(table, plan, BOARD)["peak_memory_bytes"] == 3 * 64 * 64 + 4 * 16 * 16
    assert estimate(table, plan, HOST)["peak_memory_bytes"] == 4 * 3 * 64 * 64 + 4 * 16 * 16


def test_tensors_of_a_dropped_block_are_gone() -> None:
    table = table_of(Residual(), (1, 8, 8))
    (block,) = table.blocks
    whole, dropped = (estimate(table, Plan.of(steps), HOST) for steps in ([], [Step(block.name, "drop", {})]))
    assert dropped["peak_memory_bytes"] == 2 * 4 * 64 * 8 < whole["peak_memory_bytes"]
    assert dropped["macs"] < whole["macs"]
