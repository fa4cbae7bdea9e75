from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress.tasks import default
from autocompress.tasks.default import Recipe, default_task, right_share
from autocompress.tasks.models import model_fingerprint


@pytest.fixture
def one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step on a small network: what is kept and read back matters here, not what it learns."""

    def small(classes: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(default.RECIPE.seed)
            return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 14 * 14, classes))

    monkeypatch.setattr(default, "RECIPE", Recipe(batch=8, max_steps=1))
    monkeypatch.setattr(default, "_network", small)


def test_the_network() -> None:
    state = torch.get_rng_state()
    net = default._network(10)
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(p.numel() for p in net.parameters()) == 11_172_810
    assert net(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


@pytest.mark.usefixtures("one_step")
def test_trained_once_then_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.get_rng_state()
    model, data = default_task(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert (data.name, data.input_shape, model.training) == ("digits", (1, 16, 16), False)
    (written,) = tmp_path.iterdir()
    assert written.suffix == ".safetensors"
    monkeypatch.setattr(default, "train", lambda *args: pytest.fail("trained again"))
    again, _ = default_task(tmp_path)
    assert model_fingerprint(again) == model_fingerprint(model)


@pytest.mark.usefixtures("one_step")
def test_training_is_settled_by_the_seed(tmp_path: Path) -> None:
    models = [default_task(tmp_path / name)[0] for name in ("a", "b")]
    assert model_fingerprint(models[0]) == model_fingerprint(models[1])


@pytest.mark.usefixtures("one_step")
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    model, _ = default_task(tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes({"truncated": whole[:1000], "flipped": bytes(flipped), "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        again, _ = default_task(tmp_path)
    assert "trained again" in caplog.text
    assert model_fingerprint(again) == model_fingerprint(model)
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("one_step")
def test_another_recipe_has_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    default_task()
    monkeypatch.setattr(default, "RECIPE", Recipe(batch=8, max_steps=1, seed=1))
    default_task()
    assert len(list(tmp_path.glob("default-*.safetensors"))) == 2


@pytest.mark.usefixtures("one_step")
def test_a_failed_write_leaves_nothing_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    mine = tmp_path / "default-mine.tmp"
    mine.touch()
    monkeypatch.setattr("os.fsync", full)
    with caplog.at_level(logging.WARNING):
        default_task(tmp_path)
    assert "No space left" in caplog.text
    assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.slow
def test_the_default_model_reads_digits(tmp_path: Path) -> None:
    model, data = default_task(tmp_path)
    assert right_share(model, data, data.validation) >= 0.98
    assert right_share(model, data, data.test) >= 0.98
