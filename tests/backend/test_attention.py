"""Attention heads: libraries' modules become ours where that changes nothing, and heads are cut like channels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.canonical.attention import SelfAttention, with_open_heads
from autocompress.backend.graph.coupling import cut_channels, removed_indices
from autocompress.backend.graph.trace import trace
from autocompress.backend.network.fold import fold_norms
from autocompress.core.plan import Plan, Step
from autocompress.estimate import estimate, flatten
from autocompress.formats.onnx.runtime import Runtime
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
    sites = {group.name: (group.channels, group.heads) for group in bench.network.table.groups}
    assert sites == {f"{ATTENTION}.qkv": (4, True), "encoder.layers.encoder_layer_0.mlp.0": (64, False)}
    heads = bench.network.table.groups[0]
    assert {(m.layer, m.side, m.per_channel) for m in heads.members} == {
        (f"{ATTENTION}.qkv", "out", 36), (f"{ATTENTION}.proj", "in", 12)}
    assert bench.network.table.by_name[f"{ATTENTION}.qkv"].compressible
    torch.testing.assert_close(
        outputs(bench.network.model, bench.network.calibration),
        outputs(transformer(), bench.network.calibration),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("kept", [[1], [0, 3], [1, 2, 3]])
def test_cutting_a_head_is_the_same_as_not_reading_it(bench: Workbench, kept: list[int]) -> None:
    items = bench.network.compressor.coupling.items
    choice = {f"{ATTENTION}.qkv": np.array(kept)}
    cut, unread = (with_open_heads(transformer(), bench.network.calibration[:2])[0] for _ in range(2))
    cut_channels(cut, items, choice)
    with torch.no_grad():
        gone = removed_indices(items, choice)[f"{ATTENTION}.proj", "in"]
        unread.get_submodule(f"{ATTENTION}.proj").weight[:, sorted(gone)] = 0  # type: ignore[index, operator]
    scores = outputs(cut, bench.network.calibration)
    torch.testing.assert_close(scores, outputs(unread, bench.network.calibration), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(scores, outputs(bench.network.model, bench.network.calibration), rtol=1e-2)


def test_a_transformer_with_fewer_heads_is_one_file_of_the_predicted_size(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built from the skeleton, without another export, in float and with 8-bit weights."""
    monkeypatch.setattr("autocompress.formats.onnx.format.export_template", lambda *_: pytest.fail("exported afresh"))
    keep = {
        group.name: legal_keep(group, group.channels / 2, bench.evaluator.profile)
        for group in bench.network.table.groups
    }
    assert keep[f"{ATTENTION}.qkv"] == 2
    steps = [Step(name, "prune", {"keep": count}) for name, count in keep.items()]
    eight = [
        Step(layer.name, "quantize", {"weight_bits": 8, "activation_bits": 32})
        for layer in bench.network.table.layers
        if layer.kind in ("conv", "linear") and layer.compressible
    ]
    for plan in (Plan.of(steps), Plan.of([*steps, *eight])):
        compressed = bench.network.compressor.compress(plan)
        built = bench.network.write(compressed)
        expected = outputs(compressed.model, bench.network.calibration).numpy()
        got = Runtime(built.data).run(bench.network.calibration.numpy())
        assert np.abs(got - expected).max() <= 1e-3 * np.abs(expected).max()
        predicted = estimate(bench.network.table, plan, bench.evaluator.profile)
        assert abs(predicted["size_bytes"] - len(built.data)) <= 0.01 * len(built.data)
        folded = fold_norms(compressed, bench.network.table).model
        assert predicted["params"] == sum(p.numel() for p in folded.parameters())
        for part in flatten(resolve(bench.network.table, plan)):
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
        sizes = {"kdim": 8, "vdim": 12} if kind == "widths" else {}
        self.attention = nn.MultiheadAttention(16, 4, batch_first=kind != "batch second", add_zero_attn=kind == "zero",
                                               **sizes)
        self.head = nn.Parameter(torch.randn(1, 1, 16))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, T, 16)` → the same."""
        query = self.head.expand(len(x), -1, -1) if self.kind == "one query" else x
        key = {"cross": x.flip(1), "widths": x[..., :8]}.get(self.kind, x)
        value = {"cross": x.flip(1), "widths": x[..., :12]}.get(self.kind, x)
        options: dict[str, object] = {}
        if self.kind in ("mask", "causal"):
            options = {"attn_mask": torch.ones(x.shape[1], x.shape[1]).triu(1).bool(),
                       "is_causal": self.kind == "causal", "need_weights": False}
        if self.kind == "float mask":
            options = {"attn_mask": torch.arange(x.shape[1] ** 2).reshape(x.shape[1], -1) / 10}
        if self.kind == "padding":
            options = {"key_padding_mask": x[..., 0] > 0.4}
        result, weights = self.attention(query, key, value, **options)
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


@pytest.mark.parametrize("kind", ["plain", "mask", "causal", "float mask", "padding", "cross", "one query", "widths",
                                  "batch second", "weights"])
def test_attention_of_every_call_is_opened_and_its_heads_can_be_cut(kind: str) -> None:
    torch.manual_seed(0)
    model, inputs = Encoder(Attend(kind)).eval(), torch.randn(3, 6, 3)
    opened, whole = with_open_heads(model, inputs)
    assert not whole
    torch.testing.assert_close(outputs(opened, inputs), outputs(model, inputs), rtol=1e-4, atol=1e-5)
    table, coupling = trace(opened, (6, 3), inputs=inputs)
    assert not [layer.name for layer in table.layers if layer.not_compressible_reason and "attention." in layer.name]
    if kind != "weights":  # their mean over the heads hangs on all of them
        cut = [group.channels for group in table.groups if group.heads]
        assert cut == [4], coupling.refused


@pytest.mark.parametrize("layers", ["encoder", "batch second", "decoder"])
def test_torch_s_stacks_are_opened_with_their_masks(layers: str) -> None:
    torch.manual_seed(0)
    model, inputs = Stack(layers).eval(), torch.randn(3, 6, 3)
    opened, whole = with_open_heads(model, inputs)
    assert not whole
    assert not any(isinstance(module, nn.MultiheadAttention) for module in opened.modules())
    torch.testing.assert_close(outputs(opened, inputs), slow_outputs(model, inputs), rtol=1e-4, atol=1e-5)
    table, _ = trace(opened, (6, 3), inputs=inputs)
    assert sum(group.heads for group in table.groups) == (4 if layers == "decoder" else 2)
    assert {layer.kind for layer in table.layers if layer.not_compressible_reason} <= {"other"}


class Stack(nn.Module):
    """Two of torch's layers, with the mask of what is padding, or with that of what comes later and a memory."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, first = kind, kind != "batch second"
        self.embed, self.fc = nn.Linear(3, 16), nn.Linear(16, CLASSES)
        if kind == "decoder":
            self.body: nn.Module = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 32, batch_first=first), 2)
        else:
            self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=first), 2,
                                              enable_nested_tensor=first)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, T, 3)` → `(N, 5)`."""
        y, padding = self.embed(x), x[..., 0] > 1
        if self.kind == "decoder":
            later = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
            return self.fc(self.body(y, y.flip(1), tgt_mask=later, memory_key_padding_mask=padding).mean(1))  # type: ignore[no-any-return]
        if self.kind == "encoder":
            return self.fc(self.body(y, src_key_padding_mask=padding).mean(1))  # type: ignore[no-any-return]
        return self.fc(self.body(y.transpose(0, 1), src_key_padding_mask=padding).mean(0))  # type: ignore[no-any-return]


def slow_outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    """Scores without torch's fused layers, which leave out padded positions: as in training, and as exported."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return outputs(model, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_attention_with_tokens_of_its_own_is_left_whole_and_named() -> None:
    torch.manual_seed(0)
    model, inputs = Encoder(Attend("zero")).eval(), torch.randn(3, 6, 3)
    opened, whole = with_open_heads(model, inputs)
    assert isinstance(opened.get_submodule("attend.attention"), nn.MultiheadAttention)
    assert list(whole) == ["attend.attention"] and "tokens of their own" in whole["attend.attention"]
    table, _ = trace(opened, (6, 3), inputs=inputs)
    assert table.by_name["attend.attention"].not_compressible_reason == "no technique for MultiheadAttention"


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
