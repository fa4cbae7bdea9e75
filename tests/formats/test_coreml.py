"""Core ML packages under the contract of formats, read back in torch, and what they alone must do."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch

from autocompress.core.plan import Step
from autocompress.errors import TrialError
from autocompress.formats.coreml.conversion import package_of
from autocompress.formats.coreml.format import FORMAT
from autocompress.formats.coreml.package import FOLDER, SPEC, packed, unpacked
from autocompress.formats.coreml.reading import RULES, ReadBack
from autocompress.formats.tflite.trace import trace
from autocompress.testing.exporters import integers
from autocompress.testing.format_contract import FormatContract
from autocompress.testing.techniques import workbench


@pytest.mark.slow
class TestCoreml(FormatContract):
    """Convolutions with sums."""

    format, networks = FORMAT, ("residual",)


@pytest.mark.parametrize(("args", "reason"), [
    ({"weight_bits": 4, "activation_bits": 32}, "8 bits"), ({"weight_bits": 8, "activation_bits": 8}, "in float"),
    ({"weight_bits": 8, "activation_bits": 16}, "in float"), ({"weight_bits": 16, "activation_bits": 32}, "float32"),
    ({"weight_bits": 8, "activation_bits": 32, "group": 32}, "one scale"),
    ({"weight_bits": 8, "activation_bits": 32, "grid": "codebook"}, "tables"),
    ({"weight_bits": 8, "activation_bits": 32}, "")])
def test_what_it_cannot_hold_is_refused(args: dict[str, int | str], reason: str) -> None:
    layer = workbench("residual").network.table.layers[0]
    told = FORMAT.legal(Step(layer.name, "quantize", args), layer)
    assert reason in told and bool(reason) == bool(told)


def test_a_package_is_an_archive_of_what_it_holds() -> None:
    data = packed(b"program", b"weights")
    assert unpacked(data) == (b"program", b"weights") and data == packed(b"program", b"weights")


def compressed_archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed(b"program", bytes(1000)))) as read, \
            zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as written:
        for name in read.namelist():
            written.writestr(name, read.read(name))
    return stream.getvalue()


def archive(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as written:
        for name in names:
            written.writestr(name, b"content")
    return stream.getvalue()


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "no Core ML package"), (packed(b"program", b"weights")[:-40], "no Core ML package"),
    (compressed_archive(), "as they are"), (archive(f"{FOLDER}/{SPEC}"), "a program and its weights"),
    (archive("../outside"), "a program and its weights")], ids=["empty", "truncated", "deflated", "half", "outside"])
def test_what_is_no_package_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(TrialError, match=reason):
        unpacked(data)


def test_operators_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 4, 6, 6, generator=generator), torch.randn(8, 2, 3, 3, generator=generator)
    window = {"x": x, "pad_type": "custom", "pad": np.array([1, 0, 0, 1])}
    padded = torch.nn.functional.pad(x, [0, 1, 1, 0])
    conv = RULES["conv"]({**window, "weight": weight, "strides": np.array([2, 1]), "groups": np.int32(2)})
    torch.testing.assert_close(conv, torch.conv2d(padded, weight, stride=(2, 1), groups=2))
    pooled = RULES["max_pool"]({"x": x, "kernel_sizes": np.array([2, 2]), "strides": np.array([2, 2])})
    torch.testing.assert_close(pooled, torch.max_pool2d(x, 2))
    codes = torch.arange(-6, 6, dtype=torch.int8).reshape(3, 4)
    scale = np.array([0.5, 1.0, 2.0], np.float32)
    restored = RULES["constexpr_affine_dequantize"]({"quantized_data": codes, "scale": scale, "axis": np.int32(0),
                                                     "zero_point": np.zeros(3, np.int8)})
    torch.testing.assert_close(restored, codes.float() * torch.from_numpy(scale)[:, None])
    assert RULES["expand_dims"]({"x": x, "axes": np.array([0, -1])}).shape == (1, 1, 4, 6, 6, 1)


def test_parts_of_tensors_and_pads_are_those_of_torch() -> None:
    x = torch.arange(48.0).reshape(1, 4, 3, 4)
    around = RULES["pad"]({"x": x, "pad": np.array([0, 0, 0, 0, 2, 1, 3, 0]), "mode": "constant", "constant_val": 0.5})
    torch.testing.assert_close(around, torch.nn.functional.pad(x, [3, 0, 2, 1], value=0.5))
    with pytest.raises(TrialError, match="reflect"):
        RULES["pad"]({"x": x, "pad": np.array([1, 1]), "mode": "reflect"})
    part = RULES["slice_by_index"]({
        "x": x, "begin": np.array([0, 1, 0, 1]), "end": np.array([1, 2, 0, 4]), "stride": np.array([1, 1, 1, 2]),
        "end_mask": np.array([True, False, True, False]), "squeeze_mask": np.array([False, True, False, False])})
    torch.testing.assert_close(part, x[:, 1, :, 1:4:2])
    for sizes in ({"split_sizes": np.array([1, 3])}, {"num_splits": np.int32(2)}):
        parts = RULES["split"]({"x": x, "axis": np.int32(1), **sizes})
        torch.testing.assert_close(torch.cat([*parts], 1), x)
        assert len(parts) == 2


@pytest.mark.slow
def test_a_network_that_pads_and_divides_is_read_back() -> None:
    class Halves(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(2, 4, 3), torch.nn.Linear(2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            one, other = self.first(torch.nn.functional.pad(x, (1, 0, 0, 1))).chunk(2, 1)
            return self.last((one * other).mean(3)[:, :, 0])

    network, x = Halves().eval(), torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    traced = trace(network, x[:1])
    data = package_of(traced.program.module(check_guards=False), (x[:1],), [*traced.inputs.values()],
                      [*traced.outputs])
    answers = ReadBack(data).run({name: x.numpy() for name in traced.inputs.values()})
    torch.testing.assert_close(torch.from_numpy(*answers.values()), network(x).detach())


@pytest.mark.slow
def test_levels_are_in_the_file_and_the_manifest_says_what_was_not_run() -> None:
    bench = workbench("mlp", FORMAT)
    plan = integers(bench, (8,), 32)
    compressed = bench.network.compressor.compress(plan)
    data = bench.network.write(compressed).data
    assert len(data) < 0.8 * len(bench.network.writer.original_file)
    for weight in bench.network.writer.writable(compressed).integers.values():
        assert weight.levels.contiguous().numpy().tobytes() in data
    assert FORMAT.checked(data)["coreml"]["predictions"] == "not run"


@pytest.mark.slow
def test_an_operator_that_is_not_read_back_is_refused() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Softplus()).eval()
    with pytest.raises(TrialError, match="softplus"):
        FORMAT.prepare(network, torch.zeros(2, 4))
