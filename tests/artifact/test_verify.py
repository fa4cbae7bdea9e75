"""What `autocompress verify` finds in whole and in spoiled artefacts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from shipping import copied, edited, stored_inputs, with_file

from autocompress.artifact import isolated
from autocompress.artifact.isolated import Limits, run_isolated
from autocompress.artifact.machine import this_machine
from autocompress.artifact.manifest import parse
from autocompress.artifact.options import Trust
from autocompress.artifact.verify import Verification, verify
from autocompress.cli.main import main
from autocompress.errors import InputError


def failed(verification: Verification) -> list[str]:
    return [check.name for check in verification.checks if check.state == "fails"]


def relabelled(folder: Path) -> None:
    """Say that the export was on another machine: a test must not depend on how fast this one is."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"machine": {"processor": "another", "system": ""}}))


def test_what_was_exported_is_verified(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    relabelled(copied(artifact, tmp_path))
    verification = verify(tmp_path)
    assert verification.holds
    assert {check.name: check.state for check in verification.checks} == {
        "manifest": "holds", "signature": "skipped", "files": "holds", "size": "holds", "load": "holds",
        "agreement": "holds", "latency": "skipped"}
    assert "no integer kernel can saturate" in next(c.detail for c in verification.checks if c.name == "load")
    assert main(["verify", str(tmp_path)]) == 0
    assert "is verified" in capsys.readouterr().out
    assert main(["verify", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verified"] is True and [check["state"] for check in document["checks"]].count("holds") == 5


def test_the_answers_that_ship_are_the_networks_own(artifact: Path) -> None:
    facts = json.loads((artifact / "manifest.json").read_bytes())["samples"]
    assert facts["expected"] == "network" and facts["inputs"] == "calibration" and facts["count"] == 4
    assert 0 < facts["deviation"] < facts["limit"] <= 0.25


@pytest.mark.parametrize("name", ["model.onnx", "samples.safetensors", "README.md", "manifest.json"])
@pytest.mark.parametrize("spoil", [
    lambda data: data[:-3], lambda data: b"", lambda data: bytes([data[0] ^ 1]) + data[1:], lambda data: None,
], ids=["truncated", "empty", "changed", "gone"])
def test_a_spoiled_file_fails_with_2(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str,
                                     spoil: Callable[[bytes], bytes | None]) -> None:
    path = copied(artifact, tmp_path) / name
    data = spoil(path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    assert main(["verify", str(tmp_path), "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["verified"] is False and document["checks"][-1]["state"] == "fails"
    assert main(["verify", str(tmp_path)]) == 2
    assert name in capsys.readouterr().err


def test_a_file_that_leads_out_of_the_folder_is_refused(artifact: Path, tmp_path: Path) -> None:
    folder = copied(artifact, tmp_path / "copy")
    (folder / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    verification = verify(folder)
    assert failed(verification) == ["files"] and "a link" in verification.checks[-1].detail
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")
    assert failed(verify(folder)) == ["files"], "and a pipe is not waited for"


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/b", "", "..", "manifest.json", "a\0b"])
def test_a_manifest_that_names_other_folders_files_is_refused(artifact: Path, tmp_path: Path, name: str) -> None:
    files = json.loads((artifact / "manifest.json").read_bytes())["files"]
    edited(artifact, tmp_path, files=files | {name: {"sha256": "0" * 64, "bytes": 1}})
    assert failed(verify(tmp_path)) == ["manifest"]


@pytest.mark.parametrize("keys", [{"version": 99}, {"schema": "other"}, {"files": 3}, {"model": "gone.onnx"},
                                  {"files": {"model.onnx": {"sha256": 1, "bytes": -1}}}, {"trial": "x"}])
def test_a_manifest_of_another_kind_or_release_is_refused(artifact: Path, tmp_path: Path, keys: object) -> None:
    verification = verify(edited(artifact, tmp_path, **keys))  # type: ignore[arg-type]
    assert failed(verification) == ["manifest"]
    assert ("update autocompress" in verification.checks[0].detail) == (keys == {"version": 99})


@pytest.mark.parametrize(("keys", "check"), [
    ({"dtype": "wat"}, "manifest"), ({"dtype": "object"}, "manifest"), ({"std": [0.0]}, "manifest"),
    ({"shape": ["N", 21]}, "load"), ({"name": "other"}, "load")])
def test_a_manifest_whose_input_is_not_the_files_is_refused(artifact: Path, tmp_path: Path, keys: dict[str, object],
                                                            check: str) -> None:
    facts = json.loads((artifact / "manifest.json").read_bytes())["input"]
    assert failed(verify(edited(artifact, tmp_path, input=facts | keys))) == [check]


def test_artefacts_in_further_formats_are_verified_too_but_for_watermarks(artifact: Path, tmp_path: Path) -> None:
    folder = copied(artifact, tmp_path / "all")
    copied(artifact, folder / "tflite")
    copied(artifact, folder / "notes")
    (folder / "openvino").symlink_to(artifact)
    (tmp_path / "key").write_bytes(bytes(32))
    verification = verify(folder, trust=Trust.of(watermark=tmp_path / "key"))
    first = ["manifest", "signature", "files", "load", "size", "agreement", "latency"]
    assert [check.name for check in verification.checks] == [
        *first, "watermark", *(f"tflite: {name}" for name in first), "openvino: manifest"]
    assert {"watermark", "openvino: manifest"} <= set(failed(verification))


def test_a_latency_that_is_no_number_is_refused(artifact: Path, tmp_path: Path) -> None:
    facts = json.loads((artifact / "manifest.json").read_bytes())["verified"]
    assert failed(verify(edited(artifact, tmp_path, verified=facts | {"latency_ms": "fast"}))) == ["latency"]


def test_the_file_in_place_of_its_folder_is_said(artifact: Path) -> None:
    assert "give the folder that holds it" in verify(artifact / "model.onnx").checks[0].detail


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"schema": "x", "version": "y"}'])
def test_what_is_no_manifest_is_an_input_error(text: bytes) -> None:
    with pytest.raises(InputError, match="not a manifest"):
        parse(text)


def test_a_file_that_answers_otherwise_is_noticed_though_its_hash_fits(artifact: Path, tmp_path: Path) -> None:
    model = onnx.load_model_from_string((artifact / "model.onnx").read_bytes())
    last = next(node for node in reversed(model.graph.node) if model.graph.output[0].name in node.output)
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("Neg", ["before"], [model.graph.output[0].name]))
    with_file(artifact, tmp_path, "model.onnx", model.SerializeToString())
    assert failed(verify(tmp_path)) == ["agreement"]


def test_a_file_of_another_size_than_was_verified_is_noticed(artifact: Path, tmp_path: Path) -> None:
    verified = json.loads((artifact / "manifest.json").read_bytes())["verified"]
    assert failed(verify(edited(artifact, tmp_path, verified=verified | {"size_bytes": 7}))) == ["size"]


def test_a_latency_far_above_that_of_the_manifest_fails_on_the_same_processor(artifact: Path, tmp_path: Path) -> None:
    if not this_machine().processor:
        pytest.skip("this system does not name its processor")
    manifest = json.loads((artifact / "manifest.json").read_bytes())
    edited(artifact, tmp_path, verified=manifest["verified"] | {"latency_ms": 1e-9})
    assert failed(verify(tmp_path)) == ["latency"]


@pytest.mark.parametrize("place", ["../../etc/passwd", "/etc/passwd", "weights.bin"])
def test_tensors_outside_the_file_are_not_read(artifact: Path, tmp_path: Path, place: str) -> None:
    model = onnx.load_model_from_string((artifact / "model.onnx").read_bytes())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    verification = verify(with_file(artifact, tmp_path, "model.onnx", model.SerializeToString()))
    assert failed(verification) == ["load"] and place in verification.checks[-1].detail


def test_what_is_no_model_is_refused(artifact: Path, tmp_path: Path) -> None:
    verification = verify(with_file(artifact, tmp_path, "model.onnx", b"PK\x03\x04 not a model"))
    assert failed(verification) == ["load"]


def endless() -> bytes:
    """An ONNX file that adds for hours."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Identity", ["c"], ["d"])], "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, ["n"])],
        [value("d", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, ["n"])])
    graph = helper.make_graph(
        [helper.make_node("Loop", ["times", "", "input"], ["output"], body=body)], "endless",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor("times", TensorProto.INT64, [], [2**62])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def greedy(values: int) -> bytes:
    """An ONNX file that asks for so many floats."""
    graph = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["shape"], ["large"]), helper.make_node("ReduceSum", ["large"], ["sum"]),
         helper.make_node("Add", ["input", "sum"], ["output"])], "greedy",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        [helper.make_tensor("shape", TensorProto.INT64, [1], [values])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def test_a_file_that_never_ends_is_stopped() -> None:
    with pytest.raises(InputError, match="--timeout"):
        run_isolated("onnx", endless(), {"input": np.zeros(2, np.float32)}, Limits(seconds=3))


def test_a_file_that_wants_all_memory_is_stopped() -> None:
    sample = {"input": np.zeros(2, np.float32)}
    with pytest.raises(InputError):
        run_isolated("onnx", greedy(2**31), sample, Limits(memory_bytes=2**29))
    assert run_isolated("onnx", greedy(2**10), sample, Limits(memory_bytes=2**29)).outputs["output"].shape[-1] == 2


def test_a_process_that_dies_is_an_input_error(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated.sys, "executable", "/bin/false")
    with pytest.raises(InputError, match="ended with 1"):
        run_isolated("onnx", (artifact / "model.onnx").read_bytes(), stored_inputs(artifact))


@pytest.mark.parametrize("flags", [("--timeout", "0"), ("--memory", "abc"), ("--study", "nowhere")])
def test_flags_that_cannot_be_used_end_with_2(artifact: Path, flags: tuple[str, str]) -> None:
    assert main(["verify", str(artifact), *flags]) == 2


def test_a_folder_without_an_artefact_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 2 and "manifest.json" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "gone")]) == 2
