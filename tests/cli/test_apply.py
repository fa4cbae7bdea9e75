"""`apply`: a trial's plan on weights that were trained further."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autocompress.artifact.folder import read_manifest

Cli = Callable[..., Any]
# Files of a study that must stay as they are; opening its database merges its log into it.
KEPT = (".json", ".safetensors", ".onnx", ".html", ".csv", ".md")


@pytest.fixture
def retrained(task: Any, tmp_path: Path) -> Path:
    """The weights after they moved a little."""
    generator = torch.Generator().manual_seed(0)
    weights = load_file(task.folder / "net.safetensors")
    moved = {name: tensor + 0.01 * tensor.std() * torch.randn(tensor.shape, generator=generator)
             if tensor.is_floating_point() and tensor.numel() > 1 else tensor for name, tensor in weights.items()}
    save_file(moved, tmp_path / "new.safetensors")
    return tmp_path / "new.safetensors"


@pytest.fixture(scope="module")
def study(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished study, so that nothing of it changes."""
    return Path(shutil.copytree(finished.folder, tmp_path_factory.mktemp("apply") / "small"))


def test_the_plan_is_carried_out_recovered_and_verified(cli: Cli, study: Path, retrained: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in study.rglob("*.*") if path.suffix in KEPT}
    out = cli("apply", str(study), "--weights", str(retrained), "--out", str(tmp_path / "new"), "--trust-code")
    assert out.code == 0, out.err
    assert "Test accuracy" in out.out and "model    " in out.out
    old, new = read_manifest(study / "artifact"), read_manifest(tmp_path / "new")
    assert new["plan_fingerprint"] == old["plan_fingerprint"] and new["trial"] == old["trial"]
    assert new["fingerprints"]["model"] != old["fingerprints"]["model"]
    assert new["fingerprints"]["data"] == old["fingerprints"]["data"] and new["verified"]["verified"]
    assert new["verified"]["size_bytes"] == old["verified"]["size_bytes"] <= 2800
    assert cli("verify", str(tmp_path / "new")).code in (0, 2)  # 2 where this machine is busier than it was
    assert {path: path.read_bytes() for path in study.rglob("*.*") if path.suffix in KEPT} == before
    assert cli("diff", str(study / "artifact"), str(tmp_path / "new"), "--out", str(tmp_path / "p")).code == 0
    assert cli("patch", str(study / "artifact"), str(tmp_path / "p"), "--out", str(tmp_path / "patched")).code == 0
    assert (tmp_path / "patched" / "model.onnx").read_bytes() == (tmp_path / "new" / "model.onnx").read_bytes()


def test_other_data_can_be_named(cli: Cli, study: Path, task: Any, retrained: Path, tmp_path: Path) -> None:
    data = np.load(task.folder / "data.npz")
    np.savez(tmp_path / "more.npz", x=data["x"][::-1].copy(), y=data["y"][::-1].copy())
    flags = ("--rung", "0", "--trust-code", "--data", f"npz:{tmp_path}/more.npz")
    out = cli("apply", str(study), "--weights", str(retrained), "--out", str(tmp_path / "new"), *flags)
    assert out.code == 0, out.err
    assert read_manifest(tmp_path / "new")["rung"] == 0


def test_a_users_file_runs_only_when_trusted(cli: Cli, study: Path, retrained: Path, tmp_path: Path) -> None:
    out = cli("apply", str(study), "--weights", str(retrained), "--out", str(tmp_path / "new"))
    assert out.code == 2 and "--trust-code" in out.err and not (tmp_path / "new").exists()


@pytest.mark.parametrize("spoil", ["gone", "truncated", "another network", "nan"])
def test_weights_that_do_not_fit_end_with_2(cli: Cli, study: Path, retrained: Path, tmp_path: Path, spoil: str) -> None:
    weights = load_file(retrained)
    if spoil == "gone":
        retrained.unlink()
    elif spoil == "truncated":
        retrained.write_bytes(retrained.read_bytes()[:-20])
    elif spoil == "another network":
        save_file({name: tensor.flatten()[:2].clone() for name, tensor in weights.items()}, retrained)
    else:
        save_file({name: tensor * float("nan") if tensor.is_floating_point() else tensor
                   for name, tensor in weights.items()}, retrained)
    out = cli("apply", str(study), "--weights", str(retrained), "--out", str(tmp_path / "new"), "--trust-code")
    assert out.code == 2, out.err
    assert not (tmp_path / "new").exists()


def test_a_file_over_the_studys_bounds_ends_with_3(cli: Cli, study: Path, retrained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(study, tmp_path / "study"))
    path = folder / "study.json"
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps(document | {"budget": document["budget"] | {"size_bytes": 1000}}))
    flags = ("--trial", "0", "--rung", "0", "--trust-code")
    out = cli("apply", str(folder), "--weights", str(retrained), "--out", str(tmp_path / "new"), *flags)
    assert out.code == 3 and "size_bytes" in out.err and not (tmp_path / "new").exists()


def test_a_trial_without_a_score_or_a_study_of_objects_ends_with_2(cli: Cli, study: Path, retrained: Path,
                                                                   tmp_path: Path) -> None:
    flags = ("--weights", str(retrained), "--out", str(tmp_path / "new"), "--trust-code")
    assert cli("apply", str(study), "--trial", "99", *flags).code == 2
    assert cli("apply", str(tmp_path), *flags).code == 2
    folder = Path(shutil.copytree(study, tmp_path / "study"))
    path = folder / "study.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"objects": ["model"]}))
    out = cli("apply", str(folder), *flags)
    assert out.code == 2 and "autocompress.trace" in out.err


def test_bad_flags_end_before_anything_is_loaded(cli: Cli, study: Path, retrained: Path, tmp_path: Path) -> None:
    for flags in (("--timeout", "abc"), ("--rung", "5"), ("--sign", str(tmp_path / "gone")),
                  ("--device", "tpu", "--trust-code")):
        out = cli("apply", str(study), "--weights", str(retrained), "--out", str(tmp_path / "new"), *flags)
        assert out.code == 2 and not (tmp_path / "new").exists()
