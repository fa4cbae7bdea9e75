"""What a study keeps on disk between processes: weights of candidates, and the answers of the teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from autocompress.backend.network.checkpoint import encode_weights, kept_weights, load_weights, put_weights
from autocompress.backend.network.quantized_weight import per_channel, quantize_weight, top_level
from autocompress.backend.training.teacher import Teacher
from autocompress.core.plan import Plan
from autocompress.core.store import FolderStore, MemoryStore, header_of, weights_key
from autocompress.errors import StorageError
from autocompress.formats.onnx.saturation import check_saturation
from autocompress.testing.exporters import integers, sparse, structure
from autocompress.testing.networks import task_data
from autocompress.testing.techniques import outputs, state_hash, workbench


@pytest.mark.parametrize("network", ["chain", "flattened"])
def test_kept_weights_come_back_exactly(network: str) -> None:
    bench = workbench(network)
    shape = structure(bench)
    plan = Plan.of((*shape.steps, *sparse(bench, shape).steps, *integers(bench, (4, 8, 2), 8).steps))
    kept = bench.network.compressor.compress(plan)
    store = MemoryStore()
    written = put_weights(store, 1, kept)
    data = kept_weights(store, weights_key(plan, 1), written)
    again = load_weights(bench.network.compressor.restructure(plan), data, "weights")
    assert state_hash(again.model) == state_hash(kept.model)
    assert set(again.weights) == set(kept.weights)
    for name, weight in kept.weights.items():
        assert again.weights[name].bits == weight.bits
        assert torch.equal(again.weights[name].levels, weight.levels)
        assert torch.equal(again.weights[name].scale, weight.scale)
    assert bench.network.write(again).data == bench.network.write(kept).data, (
        "fault 32: equal candidates have equal bytes"
    )


def test_damaged_or_foreign_weights_are_refused(tmp_path: Path) -> None:
    bench = workbench("mlp")
    plan = integers(bench, (4,), 8)
    whole, key = encode_weights(bench.network.compressor.compress(plan)), weights_key(plan, 1)
    for content in (b"", whole[:-10], whole[:100], b"\xff" * 200, whole[:8] + b"\xff" + whole[9:]):
        with pytest.raises(StorageError, match=r"w\.safetensors must hold the weights of a candidate"):
            load_weights(bench.network.compressor.restructure(plan), content, "w.safetensors")
    with pytest.raises(StorageError, match=r"w\.safetensors must hold the weights of this plan"):
        load_weights(bench.network.compressor.restructure(structure(bench)), whole, "w.safetensors")
    store = FolderStore(tmp_path)
    with pytest.raises(StorageError, match=f"must be in {key} of the study as written, but they are gone"):
        kept_weights(store, key, "")
    store.put(key, whole)
    with pytest.raises(StorageError, match="they have changed since they were scored"):
        kept_weights(store, key, "0" * 64)


def test_answers_to_other_views_are_not_used(tmp_path: Path) -> None:
    """Another augmentation shows other pictures: what the original said of the earlier ones is not their answer."""
    net, rows = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), torch.arange(6)
    plain, counts = task_data((3, 8, 8)), []

    def answer(inputs: Tensor) -> Tensor:
        counts.append(len(inputs))
        return outputs(net, inputs)

    def scaled(factor: float) -> Callable[[Tensor, torch.Generator], Tensor]:
        return lambda inputs, generator: inputs * factor

    unknown = iter([2.0])
    ways = [plain, replace(plain, flip=True), replace(plain, pad=2), replace(plain, augment=scaled(2.0)),
            replace(plain, augment=scaled(3.0)),
            replace(plain, augment=lambda inputs, generator: inputs * next(unknown, 2.0))]
    for number, data in enumerate(ways, 1):
        teacher = Teacher(answer, data, 0, FolderStore(tmp_path))
        inputs, logits = teacher.batch(0, rows)
        torch.testing.assert_close(logits, outputs(net, inputs))
        assert counts == [6] * number
        teacher.save()
    again = Teacher(answer, replace(plain, augment=scaled(3.0)), 0, FolderStore(tmp_path))
    again.batch(0, rows)
    assert counts == [6] * 6, "the same function by content is known again"


def test_kept_answers_of_the_teacher_are_used(tmp_path: Path) -> None:
    data = task_data((20,))
    net, counts = nn.Linear(20, 5), []

    def answer(inputs: Tensor) -> Tensor:
        counts.append(len(inputs))
        return outputs(net, inputs)

    def deaf(inputs: Tensor) -> Tensor:
        raise AssertionError("every row is known")

    store = FolderStore(tmp_path)
    first, rows = Teacher(answer, data, 0, store), torch.tensor([5, 1, 3])
    inputs, logits = first.batch(0, rows)
    torch.testing.assert_close(logits, outputs(net, inputs))
    first.batch(Teacher.VIEWS, torch.tensor([1, 3, 9]))
    assert counts == [3, 1], "only what is not known is asked for, and views come round"
    first.save()
    assert torch.equal(Teacher(deaf, data, 0, store).batch(0, rows)[1], logits)
    assert [p.name for p in (tmp_path / "teacher").iterdir()] == ["teacher-1.safetensors"]

    other = Teacher(answer, data, 0, store)
    other.batch(0, torch.tensor([7]))
    first.batch(0, torch.tensor([8]))
    first.save()
    other.save()
    Teacher(deaf, data, 0, store).batch(0, torch.tensor([1, 3, 5, 7, 8, 9]))


@pytest.mark.parametrize(("grid", "bits", "activations"), [("linear", 7, 8), ("linear", 7, 32), ("linear", 8, 8),
                                                          ("linear", 8, 32), ("linear", 6, 8), ("codebook", 5, 8)])
def test_weights_kept_before_files_had_a_format_come_within_the_limit(grid: str, bits: int, activations: int) -> None:
    """Their levels reached 127, those of 7 bits odd; the values that they stand for hardly change."""
    bench = workbench("residual")
    plan = integers(bench, (bits,), activations, grid=grid)
    network = bench.network.compressor.compress(plan)
    network.latent = {name: bench.network.model.get_submodule(name).weight.detach().clone() for name in network.weights}
    for name, weight in network.latent.items():
        stored = quantize_weight(weight, bits, grid)  # reaches 127, or at 7 bits 63
        if bits == 7:
            odd = (weight / per_channel(stored.scale / 2, weight) * 0.5).floor() * 2 + 1
            stored = replace(stored, levels=odd.clamp(-127, 127).to(torch.int8), scale=stored.scale / 2)
        network.weights[name] = stored
    new = encode_weights(network)
    header = {key: value for key, value in (header_of(new) or {}).items() if key != "format."}
    again = load_weights(bench.network.compressor.restructure(plan, fit=False), save(load(new), header), "old")
    for name, weight in again.weights.items():
        assert int(weight.levels.abs().max()) <= min(weight.limit, top_level(weight)) == top_level(weight)
        assert weight.limit == (127 if activations == 32 else 64)
        step = weight.steps() * (1 if weight.table is None else weight.table.diff().max())
        assert ((weight.dequantized() - network.weights[name].dequantized()).abs() <= 1.1 * step).all()
        assert torch.equal(weight.levels, network.weights[name].levels) == (bits == 6 or (bits, activations) == (8, 32))
    check_saturation(bench.network.write(again).data)
