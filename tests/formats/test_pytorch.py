"""Torch's formats under the contract of formats, and what they alone must do."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.backend.network.compressed import Compressed
from autocompress.backend.network.fold import fold_norms
from autocompress.core.plan import Plan
from autocompress.errors import TrialError
from autocompress.formats.base import INPUT, Format
from autocompress.formats.pytorch.graph import Graph, Node, call_name, module_of
from autocompress.formats.pytorch.pt2 import PT2
from autocompress.formats.pytorch.safetensors import SAFETENSORS
from autocompress.formats.pytorch.stored import StoredWeight, stored_weights
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import integers, sparse
from autocompress.testing.format_contract import FormatContract
from autocompress.testing.techniques import outputs, workbench

BOTH = pytest.mark.parametrize("torch_format", [SAFETENSORS, PT2], ids=lambda of: of.name)


class TestSafetensors(FormatContract):
    """The weights that the rebuilt network computes with are the levels times their steps."""

    format, networks = SAFETENSORS, ("flattened",)

    def levels(self, bench: Workbench, compressed: Compressed, data: bytes) -> dict[str, np.ndarray]:
        network = SAFETENSORS.module(data)
        folded = fold_norms(compressed, bench.network.table)
        return {name: (network.get_parameter(f"{name}.weight").detach() / weight.steps()).round().to(torch.int8).numpy()
                for name, weight in folded.weights.items()}


@pytest.mark.slow
class TestSafetensorsOfOtherLayers(TestSafetensors):
    """Sums of branches, and recurrent weights, which are rebuilt row by row."""

    networks = ("residual", "gru")


@pytest.mark.slow
class TestPt2(FormatContract):
    """A small network: each file is exported by itself."""

    format, networks = PT2, ("flattened",)


def written(torch_format: Format, network: str = "flattened", bits: int = 3) -> tuple[bytes, Compressed, Tensor]:
    """A file of a small network, the network, and calibration inputs."""
    bench = workbench(network, torch_format)
    compressed = bench.network.compressor.compress(integers(bench, (bits,), 32))
    return bench.network.write(compressed).data, compressed, bench.network.calibration


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_stored_weight_is_its_levels_times_its_steps(bits: int) -> None:
    bench = workbench("flattened", SAFETENSORS)
    for plan in (integers(bench, (bits,), 32), integers(bench, (bits,), 32, grid="codebook", group=32),
                 Plan.of((*sparse(bench, Plan()).steps, *integers(bench, (bits,), 32).steps))):
        network = bench.network.writer.writable(bench.network.compressor.compress(plan))
        stored = stored_weights(network)
        assert stored.keys() == network.integers.keys()
        for name, (facts, tensors) in stored.items():
            assert torch.equal(StoredWeight(facts, tensors)(), network.model.get_submodule(name).weight)
            packed = sum(tensors[key].numel() for key in tensors if key.startswith("plane"))
            assert bits == 8 or packed == -(-facts.kept // 8) * bits


@BOTH
def test_the_network_is_made_again_in_torch(torch_format: Format) -> None:
    data, compressed, inputs = written(torch_format)
    network = torch_format.module(data)  # type: ignore[attr-defined]
    answers = network(inputs) if torch_format is SAFETENSORS else network({INPUT: inputs})["output"]
    torch.testing.assert_close(answers, outputs(compressed.model, inputs))


def test_a_network_made_again_can_be_trained_and_has_its_names() -> None:
    data, compressed, inputs = written(SAFETENSORS)
    network = SAFETENSORS.module(data)
    assert {*dict(network.named_parameters())} >= {f"{name}.weight" for name in compressed.weights}
    network(inputs).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@BOTH
def test_a_stored_file_is_smaller_than_its_floats(torch_format: Format) -> None:
    data, _, _ = written(torch_format)
    assert len(data) < len(workbench("flattened", torch_format).network.writer.original_file) / 2


@BOTH
@pytest.mark.parametrize("spoil", [
    lambda data: data[:-9], lambda data: data[:len(data) // 2], lambda data: data[:4], lambda data: b"PK\3\4" + data,
    lambda data: b"\xff" * 8 + data[8:], lambda data: struct.pack("<Q", 2**63) + data[8:]],
    ids=["truncated", "half", "head", "other magic", "rubbish", "huge header"])
def test_what_is_spoiled_is_refused(torch_format: Format, spoil: Callable[[bytes], bytes]) -> None:
    data, _, _ = written(torch_format)
    with pytest.raises(TrialError):
        torch_format.open(spoil(data))


def repacked(data: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """An archive with other content."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


def in_graph(entries: dict[str, bytes], old: str, new: str) -> None:
    """Replace text in the JSON of an archive's graph."""
    name = next(name for name in entries if name.endswith("model.json"))
    assert old in entries[name].decode()
    entries[name] = entries[name].decode().replace(old, new).encode()


@pytest.mark.parametrize(("change", "reason"), [
    (lambda entries: entries.update({"archive/data/aotinductor/x/x.so": b"\x7fELF"}), "aotinductor"),
    (lambda entries: entries.update({"archive/data/constants/custom_obj_0": b"cos\nsystem"}), "custom_obj_0"),
    (lambda entries: entries.update({"archive/data/sample_inputs/model.pt": b"cos\nsystem"}), "sample inputs"),
    (lambda entries: in_graph(entries, '"guards_code": []', '"guards_code": ["print(1)"]'), "guards_code"),
    (lambda entries: in_graph(entries, "torch.ops.aten.relu.default", "torch.ops.aten.from_file.default"), "from_file"),
    (lambda entries: in_graph(entries, "torch.ops.aten.relu.default", "torch.hub.load"), "torch.hub.load"),
    (lambda entries: in_graph(entries, '"expr_str": "', '"expr_str": "__import__(\'os\')'), "arithmetic"),
    (lambda entries: entries.update({name: content.replace(b'"use_pickle": false', b'"use_pickle": true')
                                     for name, content in entries.items() if "weights_config" in name}), "use_pickle"),
])
def test_an_archive_that_would_run_code_is_refused(change: Callable[[dict[str, bytes]], None], reason: str) -> None:
    data, _, _ = written(PT2)
    PT2.open(repacked(data, lambda _: None))
    with pytest.raises(TrialError, match=reason):
        PT2.open(repacked(data, change))


@pytest.mark.parametrize("name", ["aten::from_file", "prims::add.default", "os.system", "aten::no_such.default"])
def test_a_graph_that_calls_anything_else_is_refused(name: str) -> None:
    with pytest.raises(TrialError, match="aten alone"):
        module_of(Graph([INPUT], [], [Node(name, [{"node": 0}])], {"output": {"node": 1}}), {})
    assert call_name(torch.ops.aten.relu.default) == "aten::relu.default"


def test_the_sizes_of_a_damaged_header_allocate_nothing() -> None:
    data, _, _ = written(SAFETENSORS)
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    told = json.loads(header["__metadata__"]["autocompress"])
    name = next(iter(told["weights"]))
    told["weights"][name][0] = [2**20, 2**20]
    header["__metadata__"]["autocompress"] = json.dumps(told)
    changed = json.dumps(header).encode()
    with pytest.raises(TrialError, match="cannot be made of"):
        SAFETENSORS.open(struct.pack("<Q", len(changed)) + changed + data[8 + size:])


class Asks(nn.Module):
    """Does another thing for small numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3)` → `(N, 3)`."""
        return x if x.sum() > 0 else -x


@BOTH
def test_what_cannot_be_exported_is_refused(torch_format: Format) -> None:
    with pytest.raises(TrialError, match="cannot export"):
        torch_format.prepare(Asks(), torch.zeros(2, 3))
