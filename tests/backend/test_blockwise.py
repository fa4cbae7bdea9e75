"""Units are found in graphs, and each is trained from a few inputs alone to give what the original's gives."""

from __future__ import annotations

import copy
from dataclasses import fields

import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.compress import Compressor
from autocompress.backend.graph.partition import find_units
from autocompress.backend.graph.trace import trace
from autocompress.backend.network.compressed import Compressed
from autocompress.backend.training import blockwise
from autocompress.backend.training.blockwise import reconstruct_blocks
from autocompress.backend.training.distill import distill
from autocompress.backend.training.feature_distillation import Original
from autocompress.backend.training.recipe import Recipe
from autocompress.backend.training.teacher import Teacher
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError, TrialError
from autocompress.study.workbench import Workbench
from autocompress.tasks.splits import TaskData
from autocompress.testing.exporters import integers, sparse, structure
from autocompress.testing.networks import NETWORKS, Residual, randomised_norms
from autocompress.testing.parameters import every_network
from autocompress.testing.techniques import outputs, state_hash, trained_workbench, workbench

READERS = {
    "chain": ["1.0", "2.0", "5"], "residual": ["conv1", "down", "fc"], "separable": ["1.0", "2.0", "3.0", "4.0", "7"],
    "grouped": ["1.0", "2.0", "5"], "dense": ["grow1.0", "grow2.0", "fc"], "signal": ["3", "5", "9"],
    "mlp": ["2", "5"], "flattened": ["1.0", "3", "5"], "encoder": ["norm1", "norm2", "fc"],
}
"""What reads the units of the small networks that torch.fx can trace, but for the last one."""


def original(bench: Workbench) -> Original:
    return Original(bench.network.model, bench.network.table, bench.network.compressor.coupling)


def _readers(student: nn.Module, bench: Workbench) -> list[str]:
    return [unit.reader for unit in find_units(student, bench.network.model, bench.network.table)]


def _everything(bench: Workbench) -> Plan:
    shape = structure(bench)
    return Plan.of((*shape.steps, *sparse(bench, shape).steps, *integers(bench, (2, 3, 4), 8).steps))


def _distance(model: nn.Module, bench: Workbench) -> float:
    targets = outputs(bench.network.model, bench.network.calibration)
    return float((outputs(model, bench.network.calibration) - targets).square().mean() / targets.square().mean())


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_units_in_a_row_are_the_network(network: str) -> None:
    bench = workbench(network)
    units = find_units(bench.network.model, bench.network.model, bench.network.table)
    if network in READERS:
        assert [unit.reader for unit in units] == [*READERS[network], ""]
    student = whole = bench.network.calibration
    with torch.no_grad():
        for unit in units:
            student, whole = unit.student(student), unit.original(whole)
    torch.testing.assert_close(student, outputs(bench.network.model, bench.network.calibration))
    torch.testing.assert_close(whole, student)
    originals = {id(p) for p in bench.network.model.parameters()}
    assert {id(p) for unit in units for p in unit.student.parameters()} == originals, "the network's own, not copies"


def test_units_of_a_student_are_found_by_the_originals_names() -> None:
    bench = workbench("chain")
    factored = bench.network.compressor.restructure(
        Plan.of([Step("2.0", "decompose", {"method": "channel-svd", "rank": 12})])
    )
    assert _readers(factored.model, bench) == [*READERS["chain"], ""]
    bench = workbench("residual")
    assert _readers(bench.network.compressor.restructure(Plan.of([Step("bn1", "drop", {})])).model, bench) == \
        ["down", "fc", ""]
    bench = workbench("encoder")
    assert _readers(bench.network.compressor.restructure(Plan.of([Step("down", "drop", {})])).model, bench) == \
        ["norm1", "fc", ""]


class _Untraceable(Residual):
    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) > 1e9:
            raise ValueError("never")
        return super().forward(x)


def test_a_network_that_cannot_be_traced_is_one_unit() -> None:
    bench = workbench("residual")
    model = _Untraceable().eval()
    model.load_state_dict(bench.network.model.state_dict())
    (unit,) = find_units(model, bench.network.model, bench.network.table)
    assert unit.student is model and unit.reader == ""


def test_a_layer_that_is_called_twice_ends_no_unit_and_is_trained_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.fc = nn.Linear(20, 16), nn.Linear(16, 16), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.fc(torch.relu(self.again(torch.relu(self.again(torch.relu(self.first(x)))))))
            return scores

    torch.manual_seed(0)
    model = Twice().eval()
    table, coupling = trace(model, (20,))
    student = copy.deepcopy(model)
    with torch.no_grad():
        student.again.weight.mul_(0.8)
    assert [unit.reader for unit in find_units(student, model, table)] == ["fc", ""]
    inputs = torch.randn(64, 20)
    before = (outputs(student, inputs) - outputs(model, inputs)).square().mean()
    done = reconstruct_blocks(Compressed(student, Plan()), Original(model, table, coupling), inputs, 100, 0)
    assert (outputs(done.model, inputs) - outputs(model, inputs)).square().mean() < 0.2 * before


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_a_network_that_lost_nothing_is_left_as_it_is(network: str) -> None:
    bench = workbench(network)
    done = reconstruct_blocks(
        bench.network.compressor.compress(Plan()), original(bench), bench.network.calibration, 20, 0
    )
    assert state_hash(done.model) == state_hash(bench.network.model)


@pytest.mark.parametrize("network", every_network())
def test_what_a_plan_asks_for_stays_and_no_unit_gets_worse(network: str) -> None:
    bench = workbench(network)
    start = bench.network.compressor.compress(_everything(bench))
    levels, masks = {n: (q.bits, q.levels.shape) for n, q in start.weights.items()}, dict(start.masks)
    before = state_hash(bench.network.model)
    done = reconstruct_blocks(start, original(bench), bench.network.calibration, 12, 0)
    assert state_hash(bench.network.model) == before
    assert {n: (q.bits, q.levels.shape) for n, q in done.weights.items()} == levels
    for name, weight in done.weights.items():
        torch.testing.assert_close(done.model.get_submodule(name).weight, weight.dequantized(), rtol=0, atol=0)
    for name, mask in masks.items():
        values = done.model.get_submodule(name).weight
        assert isinstance(values, Tensor) and not values[~mask.kept].any()
    (receipt,) = [r for r in done.receipts if r.technique == "blockwise"]
    errors = receipt.facts["errors"]
    assert isinstance(errors, dict) and list(errors)[-1] == "output"
    assert all(after <= first for first, after in errors.values())
    assert any(after < 0.95 * first for first, after in errors.values())
    assert all(p.grad is None and p.requires_grad for p in done.model.parameters())


@pytest.mark.parametrize("network", ["residual", "encoder", *(
    pytest.param(name, marks=pytest.mark.slow) for name in ("separable", "lstm"))])
def test_the_whole_network_comes_nearer(network: str) -> None:
    bench = trained_workbench(network)
    start = bench.network.compressor.compress(Plan.of((*structure(bench).steps, *integers(bench, (3, 4), 8).steps)))
    before = _distance(start.model, bench)
    done = reconstruct_blocks(start, original(bench), bench.network.calibration, 60, 0)
    assert _distance(done.model, bench) < 0.95 * before


def _recovered(bench: Workbench, recipe: Recipe, plan: Plan, seed: int = 0) -> Compressed:
    def answer(inputs: Tensor) -> Tensor:
        assert recipe.epochs, "without epochs nobody asks"
        return outputs(bench.network.model, inputs)

    return distill(
        bench.network.compressor.compress(plan),
        Teacher(answer, bench.network.task, 0, None),
        bench.network.task,
        recipe,
        bench.network.calibration,
        seed,
        original=original(bench),
    )


def test_it_is_settled_by_the_seed() -> None:
    bench = workbench("residual")
    hashes = [state_hash(_recovered(bench, Recipe(epochs=0, block_steps=10), _everything(bench), seed).model)
              for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_without_epochs_no_training_data_are_touched() -> None:
    class Locked(TaskData):
        def train_view(self, view: int, seed: int) -> Tensor:
            raise AssertionError("not the training set")

    bench = workbench("residual")
    task = bench.network.task
    data = Locked(**{field.name: getattr(task, field.name) for field in fields(task)})  # type: ignore[arg-type]
    done = distill(bench.network.compressor.compress(_everything(bench)), Teacher(outputs, data, 0, None),  # type: ignore[arg-type]
                   data, Recipe(epochs=0, block_steps=5), bench.network.calibration, 0, original=original(bench))
    assert [r.technique for r in done.receipts if r.site == ""] == ["blockwise"]


def test_distillation_goes_on_from_it() -> None:
    bench = workbench("residual")
    plan = _everything(bench)
    both = _recovered(bench, Recipe(epochs=2, batch=16, block_steps=10), plan)
    assert [r.technique for r in both.receipts if r.site == ""] == ["blockwise", "distill"]
    assert len([r for r in both.receipts if r.technique == "quantize"]) == len(plan.find("quantize"))
    alone = _recovered(bench, Recipe(epochs=2, batch=16), plan)
    assert state_hash(both.model) != state_hash(alone.model)
    timed = _recovered(bench, Recipe(epochs=2, batch=16, block_steps=10**6, seconds=0.3), plan)
    assert [r.technique for r in timed.receipts if r.site == ""] == ["blockwise", "distill"], "it comes to an end"


def test_a_stop_is_heard() -> None:
    bench = workbench("residual")
    with pytest.raises(TrialError, match="stopped"):
        reconstruct_blocks(
            bench.network.compressor.compress(_everything(bench)),
            original(bench),
            bench.network.calibration,
            5,
            0,
            should_stop=lambda: True,
        )


def test_values_that_are_not_finite_are_a_failed_candidate() -> None:
    bench = workbench("residual")
    start = bench.network.compressor.compress(Plan())
    with torch.no_grad():
        start.model.get_submodule("conv1").weight.fill_(torch.nan)  # type: ignore[operator, union-attr]
    with pytest.raises(TrialError, match="nan"):
        reconstruct_blocks(start, original(bench), bench.network.calibration, 5, 0)


def test_large_maps_are_held_of_fewer_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = workbench("residual")
    monkeypatch.setattr(blockwise, "MOST_BYTES", 40 * 4 * 16 * 12 * 12)
    done = reconstruct_blocks(
        bench.network.compressor.compress(_everything(bench)), original(bench), bench.network.calibration, 5, 0
    )
    assert next(r for r in done.receipts if r.technique == "blockwise").facts["samples"] == 40


def test_a_network_that_adds_to_its_shortcut_in_place_learns_from_what_was_there() -> None:
    class InPlace(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = self.bn1(self.conv1(x))
            y += x
            x = torch.relu_(y)
            x = torch.relu(self.bn2(self.conv2(x)) + self.bn3(self.down(x)))
            scores: Tensor = self.fc(x.mean((2, 3)))
            return scores

    bench = workbench("residual")
    model = InPlace().eval()
    model.load_state_dict(bench.network.model.state_dict())
    table, coupling = trace(model, (3, 12, 12))
    student = Compressed(copy.deepcopy(model), Plan())
    done = reconstruct_blocks(student, Original(model, table, coupling), bench.network.calibration, 5, 0)
    assert state_hash(done.model) == state_hash(bench.network.model)


def test_a_unit_may_end_before_a_norm_whose_channels_are_cut() -> None:
    class NormFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.fc = nn.Conv2d(3, 16, 3), nn.Linear(16, 5)
            self.norm, self.conv = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.stem(x))
            x = x + self.conv(torch.relu(self.norm(x)))
            scores: Tensor = self.fc(x.mean((2, 3)))
            return scores

    torch.manual_seed(0)
    model = randomised_norms(NormFirst().eval())
    inputs = torch.randn(64, 3, 10, 10)
    table, coupling = trace(model, (3, 10, 10))
    (group,) = [group for group in table.groups if group.name == "stem"]
    plan = Plan.of([Step("stem", "prune", {"keep": 8})])
    start = Compressor(model, table, coupling, inputs).compress(plan)
    done = reconstruct_blocks(start, Original(model, table, coupling), inputs, 30, 0)
    errors = next(r for r in done.receipts if r.technique == "blockwise").facts["errors"]
    assert list(errors) == ["norm", "fc", "output"] and group.channels == 16  # type: ignore[call-overload]
    assert max(errors["norm"]) < 1e-9  # type: ignore[call-overload]  # but for how a processor rounds
    assert errors["fc"][1] < errors["fc"][0]  # type: ignore[call-overload, index]


def test_mixed_inputs_are_answered_anew_and_tokens_are_refused() -> None:
    bench = workbench("residual")
    batches: list[Tensor] = []

    def answer(inputs: Tensor) -> Tensor:
        batches.append(inputs)
        return outputs(bench.network.model, inputs)

    teacher = Teacher(answer, bench.network.task, 0, None)
    hashes = [state_hash(distill(bench.network.compressor.compress(_everything(bench)), teacher, bench.network.task,
                                 Recipe(epochs=2, batch=16, mixup=mixup), bench.network.calibration, 0).model)
              for mixup in (0.4, 0.4, 0.0)]
    assert hashes[0] == hashes[1] != hashes[2]
    views = torch.cat([bench.network.task.normalise(bench.network.task.train_view(view, 0)) for view in (1, 2)])
    new = [not any(torch.equal(row, shown) for shown in views) for batch in batches[:8] for row in batch]
    assert sum(new) > 0.5 * len(new), "mixtures of two"
    inputs, logits = teacher.mixed(0, torch.arange(4), torch.arange(4), 0.3)
    torch.testing.assert_close(inputs, bench.network.task.normalise(bench.network.task.train_view(1, 0))[:4])
    torch.testing.assert_close(logits, outputs(bench.network.model, inputs))
    bench = workbench("encoder")
    with pytest.raises(InputError, match="mixup must be 0"):
        distill(
            bench.network.compressor.compress(Plan()),
            teacher,
            bench.network.task,
            Recipe(mixup=0.2),
            bench.network.calibration,
            0,
        )
