from __future__ import annotations

import json
import logging
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.tasks.checkpoint import read_checkpoint
from autocompress.tasks.weights import check_float32, put_weights


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_reading_back(tmp_path: Path, net: nn.Module, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    state = net.state_dict()
    safetensors.torch.save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    read = read_checkpoint(path)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_the_older_file_format_of_torch_is_read(tmp_path: Path, net: nn.Module) -> None:
    torch.save(net.state_dict(), tmp_path / "net.pt", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "net.pt").keys() == net.state_dict().keys()


def _safetensors(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def _entry(start: int, end: int) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}


REPEATED = b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        b"not a safetensors file",
        _safetensors({"a": _entry(0, 4)}, b"1234", length=2**63),
        _safetensors({"a": _entry(0, 4)}, b"1234", length=10**9),
        _safetensors({"a": _entry(0, 4)}, b"12"),
        _safetensors({"a": _entry(0, 4), "b": _entry(2, 6)}, b"123456"),
        _safetensors({"a": _entry(0, 2), "b": _entry(4, 6)}, b"123456"),
        _safetensors({"a": {"dtype": "U8", "shape": [2**62, 4], "data_offsets": [0, 4]}}, b"1234"),
        _safetensors({"a": {"dtype": "X9", "shape": [4], "data_offsets": [0, 4]}}, b"1234"),
        _safetensors(REPEATED, b"1234"),
        _safetensors(b"[" * 100_000),
        _safetensors(b"\xff\xfe{"),
    ],
    ids=lambda content: content[:12].hex(),
)
def test_hostile_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="weights:"):
        read_checkpoint(path)


def test_a_repeated_name_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(_safetensors(REPEATED, b"1234"))
    with pytest.raises(InputError, match="repeats 'a'"):
        read_checkpoint(path)


def test_a_large_header_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", 2**31))
        stream.truncate(2**31 + 8)  # sparse: takes no room on the disk
    with pytest.raises(InputError, match="header of 2,147,483,648 bytes"):
        read_checkpoint(path)


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_pickle_payload_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    torch.save({"state_dict": Payload(ran)}, tmp_path / "zip.pt")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Payload(ran)))
    for name in ("zip.pt", "bare.pth"):
        with pytest.raises(InputError, match="weights_only"):
            read_checkpoint(tmp_path / name)
    assert not ran.exists()


def test_damaged_torch_files_are_refused(tmp_path: Path, net: nn.Module) -> None:
    path = tmp_path / "net.pt"
    torch.save(net.state_dict(), path)
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[:100], whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="weights:"):
            read_checkpoint(path)


def test_a_packed_bomb_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**23))
    with pytest.raises(InputError, match="zip bomb"):
        read_checkpoint(tmp_path / "net.pt")


def test_paths_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        read_checkpoint(tmp_path / "absent.pt")
    (tmp_path / "net.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"\.safetensors file or a file of torch\.save"):
        read_checkpoint(tmp_path / "net.bin")


def _changed(net: nn.Module, **changes: Tensor | None) -> dict[str, Tensor]:
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    named = {name.replace("_", ".", 1): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in (state | named).items() if tensor is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"4_weight": None, "4_bias": None}, "missing 4.weight, 4.bias"),
        ({"9_weight": torch.zeros(1)}, "unexpected 9.weight"),
        (
            {"4_weight": torch.zeros(7, 144), "4_bias": torch.zeros(7)},
            r"4.weight \(3, 144\) against \(7, 144\).*weights for 7 classes, data with 3",
        ),
        ({"4_weight": torch.zeros(3, 100)}, r"4.weight \(3, 144\) against \(3, 100\) in the file$"),
        ({"4_bias": torch.tensor([1.0, torch.nan, 0.0])}, "finite weights, but 4.bias"),
        ({"4_bias": torch.zeros(3, dtype=torch.int64)}, "4.bias are torch.int64"),
        ({"4_bias": torch.zeros(3, dtype=torch.complex64)}, "4.bias are torch.complex64"),
    ],
)
def test_weights_that_do_not_fit(net: nn.Module, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        put_weights(net, _changed(net, **changes), "w.pt", classes=3)


def test_only_five_names_are_listed(net: nn.Module) -> None:
    with pytest.raises(InputError, match=r"x0, x1, x2, x3, x4 and 3 more$"):
        put_weights(net, _changed(net) | {f"x{i}": torch.zeros(1) for i in range(8)}, "w.pt", classes=3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32_with_a_note(
    net: nn.Module, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in net.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        put_weights(net, state, "w.pt", classes=3)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert torch.equal(net[4].weight, state["4.weight"].float())  # type: ignore[index]
    assert f"{dtype} to float32" in caplog.text


def test_a_missing_batch_counter_is_forgiven(net: nn.Module) -> None:
    put_weights(net, _changed(net, **{"1_num_batches_tracked": None}), "w.pt", classes=3)


def test_a_buffer_of_minus_infinity_is_a_mask_and_nothing_else_is() -> None:
    """As attention to what came before is written."""
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    net.register_buffer("mask", torch.triu(torch.full((4, 4), -torch.inf), 1))
    check_float32(net, "net")
    put_weights(net, net.state_dict(), "file", 4)
    for name, value in (("mask", torch.nan), ("1.running_var", torch.inf)):
        state = {key: tensor.clone() for key, tensor in net.state_dict().items()}
        state[name].flatten()[0] = value
        with pytest.raises(InputError, match=f"{name} contain NaN or infinity"):
            put_weights(net, state, "file", 4)


def test_weights_without_values_are_named() -> None:
    for net in (nn.Sequential(nn.LazyLinear(4)), nn.Sequential(nn.Linear(4, 4, device="meta"))):
        with pytest.raises(InputError, match=r"with values, but 0\.weight, 0\.bias have none yet"):
            check_float32(net, "net")


def test_models_that_hold_other_than_finite_reals(net: nn.Module) -> None:
    assert {p.dtype for p in check_float32(net.half(), "net").parameters()} == {torch.float32}
    with torch.no_grad():
        net[4].bias[0] = torch.inf  # type: ignore[index]
    with pytest.raises(InputError, match=r"4.bias contain NaN or infinity"):
        check_float32(net, "net")
    net[4].bias = nn.Parameter(torch.zeros(3, dtype=torch.complex64))  # type: ignore[index]
    with pytest.raises(InputError, match=r"4.bias are complex: keep real and imaginary part apart"):
        check_float32(net, "net")
