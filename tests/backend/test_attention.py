"""Attention heads: libraries' modules become ours where that changes nothing, and heads are cut like channels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.attention import SelfAttention, with_open_heads
from autocompress.backend.coupling import cut_channels, removed_indices
from autocompress.backend.fold import fold_norms
from autocompress.core.plan import Plan, Step
from autocompress.estimate import estimate, flatten
from autocompress.export.runtime import Runtime
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.tasks.vision import import_torchvision
from autocompress.techniques import resolve
from autocompress.techniques.prune import legal_keep
from autocompress.testing.networks import CLASSES, task_data
from autocompress.testing.techniques import outputs

SHAPE = (3, 16, 16)
ATTENTION = "encoder.layers.encoder_layer_0.self_attention"


def transformer() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = import_torchvision().models.VisionTransformer(16, 4, 1, 4, 48, 64, num_classes=CLASSES)
    nn.init.normal_(model.heads.head.weight)  # torchvision begins with zeros
    return model.eval()


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench(transformer(), task_data(SHAPE, samples=24), load_profile("host"), seed=0, folder=Path(os.devnull),
                     epochs=1)


def test_heads_and_widths_of_a_transformer_are_sites(bench: Workbench) -> None:
    found = {group.name: (group.channels, group.heads) for group in bench.table.groups}
    assert found == {f"{ATTENTION}.qkv": (4, True), "encoder.layers.encoder_layer_0.mlp.0": (64, False)}
    heads = bench.table.groups[0]
    assert {(m.layer, m.side, m.per_channel) for m in heads.members} == {
        (f"{ATTENTION}.qkv", "out", 36), (f"{ATTENTION}.proj", "in", 12)}
    assert not bench.table.by_name[f"{ATTENTION}.qkv"].locked
    torch.testing.assert_close(outputs(bench.model, bench.calibration), outputs(transformer(), bench.calibration),
                               rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [[1], [0, 3], [1, 2, 3]])
def test_cutting_a_head_is_the_same_as_not_reading_it(bench: Workbench, kept: list[int]) -> None:
    items = bench.compressor.coupling.items
    choice = {f"{ATTENTION}.qkv": np.array(kept)}
    cut, unread = (with_open_heads(transformer(), bench.calibration[:2])[0] for _ in range(2))
    cut_channels(cut, items, choice)
    with torch.no_grad():
        gone = removed_indices(items, choice)[f"{ATTENTION}.proj", "in"]
        unread.get_submodule(f"{ATTENTION}.proj").weight[:, sorted(gone)] = 0  # type: ignore[index, operator]
    scores = outputs(cut, bench.calibration)
    torch.testing.assert_close(scores, outputs(unread, bench.calibration), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(scores, outputs(bench.model, bench.calibration), rtol=1e-2)


def test_a_transformer_with_fewer_heads_is_one_file_of_the_predicted_size(bench: Workbench,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Built from the skeleton, without another export, in float and with 8-bit weights."""
    monkeypatch.setattr("autocompress.study.workbench.export_template", lambda *_: pytest.fail("exported afresh"))
    keep = {group.name: legal_keep(group, group.channels / 2, bench.profile) for group in bench.table.groups}
    assert keep[f"{ATTENTION}.qkv"] == 2
    steps = [Step(name, "prune", {"keep": count}) for name, count in keep.items()]
    eight = [Step(layer.name, "quantize", {"weight_bits": 8, "activation_bits": 32}) for layer in bench.table.layers
             if layer.kind in ("conv", "linear") and not layer.locked]
    for plan in (Plan.of(steps), Plan.of([*steps, *eight])):
        compressed = bench.compressor.compress(plan)
        built = bench.build(compressed)
        expected = outputs(compressed.model, bench.calibration).numpy()
        got = Runtime(built.data).run(bench.calibration.numpy())
        assert np.abs(got - expected).max() <= 1e-3 * np.abs(expected).max()
        predicted = estimate(bench.table, plan, bench.profile)
        assert abs(predicted["size_bytes"] - len(built.data)) <= 0.01 * len(built.data)
        folded = fold_norms(compressed, bench.table).model
        assert predicted["params"] == sum(p.numel() for p in folded.parameters())
        for part in flatten(resolve(bench.table, plan)):
            if part.kind in ("conv", "linear"):
                assert part.weights == folded.get_submodule(part.name).weight.numel()  # type: ignore[operator, union-attr]


class Encoder(nn.Module):
    """Tokens of a signal through torch's own encoder layer, and a classifier."""

    def __init__(self, attend: nn.Module) -> None:
        super().__init__()
        self.embed, self.attend, self.fc = nn.Linear(3, 16), attend, nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, T, 3)` → `(N, 5)`."""
        scores: Tensor = self.fc(self.attend(self.embed(x)).mean(1))
        return scores


class Attend(nn.Module):
    """A call of `nn.MultiheadAttention`, of one of several kinds."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.attention = nn.MultiheadAttention(16, 4, batch_first=kind != "batch second", add_zero_attn=kind == "zero")

    def forward(self, x: Tensor) -> Tensor:
        """`(N, T, 16)` → the same."""
        mask = torch.ones(x.shape[1], x.shape[1]).tril() == 0 if self.kind == "mask" else None
        other = x.flip(1) if self.kind == "cross" else x
        result, weights = self.attention(x, other, other, attn_mask=mask)
        return result + weights.sum(2, keepdim=True) if self.kind == "weights" else result


@pytest.mark.parametrize("norm_first", [False, True])
def test_torch_s_encoder_layer_is_opened(norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm_first)
    model, inputs = Encoder(layer).eval(), torch.randn(3, 6, 3)
    opened, whole = with_open_heads(model, inputs)
    assert not whole
    assert isinstance(opened.get_submodule("attend.self_attn"), SelfAttention)
    assert isinstance(model.attend.self_attn, nn.MultiheadAttention)
    torch.testing.assert_close(outputs(opened, inputs), outputs(model, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "reason"), [
    ("mask", "with a mask"), ("cross", "cross-attention"), ("zero", "tokens of their own"),
    ("batch second", "batch is not the first axis"), ("weights", "reads more of it than its output"),
])
def test_other_attention_is_left_whole_and_named(kind: str, reason: str) -> None:
    torch.manual_seed(0)
    model, inputs = Encoder(Attend(kind)).eval(), torch.randn(3, 6, 3)
    opened, whole = with_open_heads(model, inputs)
    assert opened is model
    assert list(whole) == ["attend.attention"] and reason in whole["attend.attention"]


def test_a_network_without_attention_is_itself() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    assert with_open_heads(model, torch.zeros(2, 3)) == (model, {})


@pytest.mark.filterwarnings("ignore")
def test_timm_s_attention_is_opened() -> None:
    import_torchvision()
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, depth=1, num_classes=CLASSES).eval()
    inputs = torch.randn(2, *SHAPE)
    opened, whole = with_open_heads(model, inputs)
    assert not whole and isinstance(opened.get_submodule("blocks.0.attn"), SelfAttention)
    torch.testing.assert_close(outputs(opened, inputs), outputs(model, inputs), rtol=1e-4, atol=1e-5)
