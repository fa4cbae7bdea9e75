"""Updates from one artefact to another: exact, small, and refused where they do not fit."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shipping import copied, edited, quantised, shipped
from test_protection import key_pair

from autocompress.artifact import patch as patching
from autocompress.artifact.options import ExportOptions
from autocompress.artifact.patch import apply_patch, make_patch
from autocompress.artifact.tensor_delta import LEGAL_BITS, applied, difference
from autocompress.artifact.verify import verify
from autocompress.cli.main import main
from autocompress.core import files
from autocompress.errors import InputError
from autocompress.formats.onnx.tensor_spans import tensor_spans
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.networks import NETWORKS
from autocompress.testing.techniques import workbench


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network of pictures at 4 bits, and the same after its weights moved a little."""
    folder, bench = tmp_path_factory.mktemp("versions"), workbench("chain")
    moved = copy.deepcopy(bench.network.user_model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.01 * parameter.std() * torch.randn(parameter.shape, generator=generator) \
                if parameter.numel() > 1 else 0
    other = Workbench(moved, NETWORKS["chain"].data(), load_profile("host"), seed=0, epochs=1)
    return (shipped(bench, quantised(bench), folder / "old"), shipped(other, quantised(other), folder / "new"))


def test_a_patch_gives_the_new_artefact_exactly(versions: tuple[Path, Path], tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    old, new = versions
    before = contents(old)
    assert main(["diff", str(old), str(new), "--out", str(tmp_path / "p"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["whole_bytes"] == sum(map(len, contents(new).values()))
    assert facts["patch_bytes"] == (tmp_path / "p").stat().st_size < facts["whole_bytes"]
    assert main(["patch", str(old), str(tmp_path / "p"), "--out", str(tmp_path / "updated")]) == 0
    assert contents(tmp_path / "updated") == contents(new) and contents(old) == before
    assert {check.name for check in verify(tmp_path / "updated").checks if check.state == "fails"} <= {"latency"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "updated"]
    assert main(["diff", str(old), str(new), "--out", str(tmp_path / "p")]) == 0
    assert "% of the" in capsys.readouterr().out


def test_tensors_are_told_by_their_differences(versions: tuple[Path, Path]) -> None:
    old, new = ((folder / "model.onnx").read_bytes() for folder in versions)
    spans = tensor_spans(new)
    assert {span.bits for span in spans.values()} >= {4, 32}
    assert all(old_span[1:] == spans[name][1:] for name, old_span in tensor_spans(old).items())
    ((name, packed),) = ((name, span) for name, span in spans.items() if span.bits == 4)
    begin = tensor_spans(old)[name].begin
    changes = difference(old[begin:begin + packed.length], new[packed.begin:packed.begin + packed.length], 4)
    assert len(lzma.compress(changes)) < 0.7 * packed.length, "most codes stay"


def test_the_same_artefact_needs_next_to_nothing(versions: tuple[Path, Path]) -> None:
    old, _ = versions
    patch = make_patch(old, old)
    assert len(patch) < 1000 and apply_patch(old, patch) == contents(old)


def test_artefacts_of_other_networks_are_patched_too(versions: tuple[Path, Path], artifact: Path) -> None:
    old, _ = versions
    assert apply_patch(old, make_patch(old, artifact)) == contents(artifact)
    assert apply_patch(artifact, make_patch(artifact, old)) == contents(old)


def test_signatures_travel_and_are_asked_for(versions: tuple[Path, Path], tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    bench = workbench("mlp")
    private, public = key_pair(tmp_path, "own")
    _, other = key_pair(tmp_path, "other")
    signed = shipped(bench, quantised(bench), tmp_path / "signed", options=ExportOptions.of(private))
    (tmp_path / "p").write_bytes(make_patch(versions[0], signed))
    flags = ("patch", str(versions[0]), str(tmp_path / "p"), "--out", str(tmp_path / "updated"), "--key")
    assert main([*flags, str(other)]) == 2 and not (tmp_path / "updated").exists()
    assert "somebody else" in capsys.readouterr().err
    assert main([*flags, str(public)]) == 0 and contents(tmp_path / "updated") == contents(signed)
    (tmp_path / "p").write_bytes(make_patch(signed, versions[0]))
    flags = ("patch", str(signed), str(tmp_path / "p"), "--out", str(tmp_path / "back"), "--key")
    assert main([*flags, str(public)]) == 2 and "must be signed" in capsys.readouterr().err


@pytest.mark.parametrize("spoil", [
    lambda data: data[:-1], lambda data: data[:30], lambda data: b"", lambda data: b"PK" + data[2:],
    lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:], lambda data: data + b"x",
    lambda data: data.replace(b"patch-1\n", b"patch-9\n", 1)],
    ids=["truncated", "header only", "empty", "wrong magic", "changed", "longer", "newer"])
def test_a_spoiled_patch_ends_with_2(versions: tuple[Path, Path], tmp_path: Path,
                                     spoil: Callable[[bytes], bytes]) -> None:
    old, new = versions
    (tmp_path / "p").write_bytes(spoil(make_patch(old, new)))
    assert main(["patch", str(old), str(tmp_path / "p"), "--out", str(tmp_path / "updated")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_patch_for_another_artefact_ends_with_2(versions: tuple[Path, Path], artifact: Path, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    old, new = versions
    (tmp_path / "p").write_bytes(make_patch(old, new))
    for other in (artifact, new):
        assert main(["patch", str(other), str(tmp_path / "p"), "--out", str(tmp_path / "updated")]) == 2
        assert "must be for this artefact" in capsys.readouterr().err
    changed = copied(old, tmp_path / "changed")
    (changed / "model.onnx").write_bytes(b"x" + (changed / "model.onnx").read_bytes()[1:])
    assert main(["patch", str(changed), str(tmp_path / "p"), "--out", str(tmp_path / "updated")]) == 2


@pytest.mark.parametrize("place", ["old", "file", "gone/p"])
def test_places_that_cannot_be_used_end_with_2(versions: tuple[Path, Path], tmp_path: Path, place: str) -> None:
    old, new = copied(versions[0], tmp_path / "old"), versions[1]
    (tmp_path / "p").write_bytes(make_patch(old, new))
    (tmp_path / "file").write_text("mine")
    if place == "gone/p":
        assert main(["patch", str(old), str(tmp_path / place), "--out", str(tmp_path / "updated")]) == 2
        assert main(["diff", str(old), str(tmp_path / "gone"), "--out", str(tmp_path / "q")]) == 2
        assert main(["diff", str(old), str(new), "--out", str(tmp_path)]) == 2
    else:
        assert main(["patch", str(old), str(tmp_path / "p"), "--out", str(tmp_path / place)]) == 2
    assert (tmp_path / "file").read_text() == "mine" and contents(old) == contents(versions[0])


def test_a_patch_is_written_over_nothing_but_a_patch(versions: tuple[Path, Path], tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    old, new = copied(versions[0], tmp_path / "old"), versions[1]
    assert main(["diff", str(old), str(new), "--out", str(old / "model.onnx")]) == 2
    assert "it stays" in capsys.readouterr().err and contents(old) == contents(versions[0])
    for _ in range(2):
        assert main(["diff", str(old), str(new), "--out", str(tmp_path / "p")]) == 0
    for command in (["diff", str(old), str(new)], ["patch", str(old), str(tmp_path / "p")]):
        capsys.readouterr()
        assert main([*command, "--out", str(old / "model.onnx" / "below")]) == 2
        assert "is a file" in capsys.readouterr().err and contents(old) == contents(versions[0])


@pytest.mark.parametrize("write", [1, 2, 4])
def test_an_interrupted_patch_leaves_the_old_artefact_and_nothing_else(
    versions: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    old, new = copied(versions[0], tmp_path / "old"), versions[1]
    (tmp_path / "p").write_bytes(make_patch(old, new))
    calls: list[Path] = []
    sync = files.sync

    def full(path: Path) -> None:
        calls.append(path)
        if len(calls) == write:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    monkeypatch.setattr(files, "sync", full)
    assert main(["patch", str(old), str(tmp_path / "p"), "--out", str(tmp_path / "updated")]) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "p"] and contents(old) == contents(versions[0])


def test_what_a_killed_patch_left_is_removed_by_the_next(versions: tuple[Path, Path], tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / files.temporary_name()
    left.mkdir()
    (left / "model.onnx").write_bytes(b"half")
    monkeypatch.setattr(files, "is_alive", lambda process: False)
    (tmp_path / "p").write_bytes(make_patch(*versions))
    assert main(["patch", str(versions[0]), str(tmp_path / "p"), "--out", str(tmp_path / "updated")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "updated"]


def rewritten(patch: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A patch with another header, whole by its hash."""
    at = len(patching.MAGIC) + patching.LENGTH_BYTES
    length = int.from_bytes(patch[len(patching.MAGIC):at], "little")
    header = json.loads(lzma.decompress(patch[at:at + length]))
    change(header)
    head = lzma.compress(json.dumps(header).encode())
    body = patching.MAGIC + len(head).to_bytes(8, "little") + head + patch[at + length:-patching.HASH_BYTES]
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize("change", [
    lambda header: header["files"][0].update(name="../../etc/passwd"),
    lambda header: header["files"][0].update(name="a/b"),
    lambda header: header["files"][0].update(sha256="0" * 64),
    lambda header: header["files"][0].update(bytes=7),
    lambda header: header["files"][1]["parts"].append([2**50, -1, 8]) or header["files"][1].update(
        bytes=header["files"][1]["bytes"] + 2**50),
    lambda header: header["files"][1].update(parts=[[header["files"][1]["bytes"], 10**9, 8]]),
    lambda header: header["files"][1].update(parts=[[header["files"][1]["bytes"], 0, 3]]),
    lambda header: header.update(files=[]),
    lambda header: header.update(files=3),
    lambda header: header.update(streams=[1, 2]),
    lambda header: header.pop("old"),
], ids=["other folder", "slash", "hash", "length", "bomb", "beyond", "bits", "none", "type", "streams", "old"])
def test_headers_that_lie_end_with_2_and_fill_no_memory(versions: tuple[Path, Path], tmp_path: Path,
                                                        change: Callable[[dict[str, Any]], None]) -> None:
    patch = rewritten(make_patch(*versions), change)
    with pytest.raises(InputError, match="must"):
        apply_patch(versions[0], patch)


def test_a_patch_whose_outcome_is_no_artefact_writes_nothing(versions: tuple[Path, Path], tmp_path: Path) -> None:
    new = edited(versions[1], tmp_path / "new")

    def without_model(header: dict[str, Any]) -> None:
        header["files"] = [file for file in header["files"] if file["name"] == "manifest.json"]

    patch = rewritten(make_patch(versions[0], new), without_model)
    with pytest.raises(InputError):
        patching.updated(versions[0], patch, tmp_path / "updated")
    assert not (tmp_path / "updated").exists()


@given(st.sampled_from(LEGAL_BITS), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_a_difference_is_undone_exactly(bits: int, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    old, new = rng.bytes(length), rng.bytes(length)
    change = difference(old, new, bits)
    assert len(change) == length and applied(old, change, bits) == new


@pytest.mark.parametrize("bits", LEGAL_BITS)
def test_small_steps_of_either_sign_are_small_numbers(bits: int) -> None:
    old = bytes([0x55] * 16)
    if bits < 8:
        assert difference(old, old, bits) == bytes(16)
        return
    numbers = np.frombuffer(old, f"<u{bits // 8}")
    for step in (1, -1):
        new = (numbers + numbers.dtype.type(step % 2**bits)).tobytes()
        change = np.frombuffer(difference(old, new, bits), np.uint8)
        assert set(change.tolist()) <= {0, 1, 2} and change.sum() == len(numbers) * (2 if step == 1 else 1)
