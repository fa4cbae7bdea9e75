"""How pictures are brought to size and normalised: as the user says, else as the network's weights say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from autocompress.errors import InputError
from autocompress.tasks.data import load_data
from autocompress.tasks.preparation import Preparation, asked_preparation, preparation_of

TIMM = {"input_size": (3, 288, 288), "crop_pct": 0.95, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
        "interpolation": "bicubic"}


def _timm_network() -> nn.Module:
    network = nn.Sequential(nn.Flatten())
    network.pretrained_cfg = TIMM
    return network


def test_timms_configuration_is_taken() -> None:
    preparation = preparation_of(_timm_network(), None)
    assert preparation is not None
    assert preparation.sides == (303, 288)
    assert (preparation.mean, preparation.interpolation) == ((0.5, 0.5, 0.5), "bicubic")
    assert preparation_of(nn.Flatten(), None) is None


def test_torchvisions_weights_say_it_and_a_file_of_their_name() -> None:
    preparation = preparation_of("torchvision:resnet50", None)
    assert preparation is not None and preparation.sides == (232, 224)
    older = preparation_of("torchvision:resnet50", Path("resnet50-0676ba61.pth"))
    assert older is not None and older.sides == (256, 224)
    assert preparation_of("torchvision:resnet50", Path("mine.pth")) is None
    assert preparation_of("torchvision:nothing", None) is None


@pytest.mark.parametrize(("options", "sides"), [
    ({}, (303, 288)),
    ({"image_size": 96}, (101, 96)),
    ({"crop": 0.75}, (384, 288)),
    ({"crop": 224}, (235, 224)),
    ({"resize": 320}, (320, 288)),
    ({"image_size": 64, "resize": 64}, (64, 64)),
])
def test_what_the_user_says_goes_first(options: dict[str, Any], sides: tuple[int, int]) -> None:
    said = asked_preparation(**{name: options.get(name) for name in ("image_size", "resize", "crop", "mean", "std")})
    assert said.completed(preparation_of(_timm_network(), None)).sides == sides


@pytest.mark.parametrize(("mean", "numbers"), [
    ("0.485,0.456,0.406", (0.485, 0.456, 0.406)), (0.5, (0.5,)), ([0.1, 0.2], (0.1, 0.2)), ("0.5", (0.5,)),
    (np.array([0.25]), (0.25,)),
])
def test_numbers_of_channels(mean: Any, numbers: tuple[float, ...]) -> None:
    assert asked_preparation(None, None, None, mean, None).mean == numbers


@pytest.mark.parametrize(("options", "message"), [
    ({"mean": "a,b"}, "mean must be one number for each channel"),
    ({"std": "0.5,0"}, "std must be one number above zero"),
    ({"crop": -1.0}, "crop must be a share"),
    ({"crop": 0.5, "resize": 10}, "say the same thing twice"),
    ({"crop": 64, "image_size": 32}, "same whole number"),
])
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        asked_preparation(**{name: options.get(name) for name in ("image_size", "resize", "crop", "mean", "std")})


def test_a_resize_below_the_crop_is_refused() -> None:
    with pytest.raises(InputError, match="resize must be at least the 64 pixels"):
        _ = Preparation(64, 32).sides


def test_means_reach_arrays_and_files(tmp_path: Path) -> None:
    x, y = np.full((20, 3, 4, 4), 255, np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "plain.npz", x=x, y=y)
    np.savez(tmp_path / "said.npz", x=x, y=y, mean=[0.5], std=[0.25])
    of_network = Preparation(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0), origin="somebody")
    of_user = Preparation(mean=(0.75,), std=(0.25,))
    for name, preparation, expected in (("plain", of_network, [0.9, 0.8, 0.7]), ("said", of_network, [2, 2, 2]),
                                        ("said", of_user, [1, 1, 1]), ("plain", Preparation(), [1, 1, 1])):
        data = load_data(f"npz:{tmp_path / name}.npz", preparation=preparation)
        assert data.normalise(data.train.inputs)[0, :, 0, 0].tolist() == pytest.approx(expected)
