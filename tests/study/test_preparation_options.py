"""What is said of the inputs is kept with the study, and is taken up again where it goes on or another begins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.cli.config import read_config
from autocompress.errors import InputError
from autocompress.study.loading import load_task
from autocompress.study.settings import SETTINGS, SearchSettings

NETWORK = '''
import torch
from torch import nn

def make():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    net.pretrained_cfg = {"input_size": (3, 8, 8), "crop_pct": 0.5, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
    return net
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "odd ?%20 #é"
    place.mkdir()
    (place / "net.py").write_text(NETWORK)
    np.savez(place / "d.npz", x=np.full((40, 3, 8, 8), 255, np.uint8), y=np.arange(40) % 2)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    torch.save({"state_dict": network.state_dict(), "best_acc1": 91.5}, place / "w.ckpt")
    return place


def _options(folder: Path, **more: object) -> SearchSettings:
    return SearchSettings.of(model=f"{folder / 'net.py'}:make", data=f"npz:{folder / 'd.npz'}",
                             weights=folder / "w.ckpt", **more)


def test_the_users_numbers_go_before_the_networks(folder: Path) -> None:
    loaded, data = load_task(_options(folder))
    assert (data.mean, data.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert loaded.claimed == ("best_acc1", 0.915)
    _, said = load_task(_options(folder, mean="0.5", std=[0.25, 0.5, 1.0]))
    assert (said.mean, said.std) == ((0.5,), (0.25, 0.5, 1.0))
    assert said.fingerprint != data.fingerprint, "a study cannot go on with other numbers"
    assert "mean (0.5,)" in said.described


def test_what_was_said_is_kept_with_the_study(folder: Path) -> None:
    options = _options(folder, mean=(0.5, 0.5, 0.5), crop=0.5, image_size=8, inputs="pixels")
    kept = options.storable()
    again = _options(folder, **{name: getattr(kept, name) for name, s in SETTINGS.items()
                                if s.owner == "data" and name != "data"})
    assert load_task(again)[1].fingerprint == load_task(options)[1].fingerprint


def test_a_config_file_says_it_too_and_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    path = folder / "c.toml"
    lines = ("mean = [0.5, 0.25, 0.125]", 'std = "0.5,0.5,0.5"', "crop = 0.875", "resize = 9", 'inputs = "values"',
             'weights-key = "state_dict"')
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert read_config(path) == {"mean": [0.5, 0.25, 0.125], "std": "0.5,0.5,0.5", "crop": 0.875, "resize": 9,
                                 "inputs": "values", "weights_key": "state_dict"}


def test_paths_below_home_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    settings = SearchSettings.of(model="~/net.py:make", data="npz:~/d.npz", weights="~/w.ckpt")
    assert len(load_task(settings)[1].train) == 32


@pytest.mark.parametrize(("more", "message"), [
    ({"mean": "a"}, "mean must be one number"), ({"inputs": "table"}, "inputs must be one of"),
    ({"mean": "0.5,0.5"}, "mean and std must hold 1 or 3 values"), ({"weights_key": "ema"}, "under the key 'ema'"),
])
def test_what_cannot_be_is_refused(folder: Path, more: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_task(_options(folder, **more))
