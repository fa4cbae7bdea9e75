"""Folders of pictures as cameras, microscopes and downloads write them: the same drawing in every mode."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from autocompress.errors import InputError
from autocompress.tasks.data import load_data
from autocompress.tasks.preparation import Preparation
from autocompress.tasks.splits import TaskData

Drawing = NDArray[np.float64]


def _drawing(number: int) -> Drawing:
    """Values 0 to 1, (6, 6), both ends reached."""
    values = np.random.default_rng(number).random((6, 6))
    values[0, 0], values[5, 5] = 0, 1
    return values


def _bytes(values: Drawing) -> NDArray[np.uint8]:
    return (values * 255).round().astype(np.uint8)


def _on_ground(values: Drawing, colour: int) -> Image.Image:
    rgba = np.full((6, 6, 4), colour, np.uint8)
    rgba[..., 3] = _bytes(values)
    return Image.fromarray(rgba)


MODES: dict[str, tuple[str, Callable[[Drawing], Image.Image]]] = {
    "grey": (".png", lambda v: Image.fromarray(_bytes(v))),
    "16 bits": (".png", lambda v: Image.fromarray((v * 65535).astype(np.uint16))),
    "16 bits tiff": (".tif", lambda v: Image.fromarray((v * 65535).astype(np.uint16))),
    "12 of 16 bits": (".TIFF", lambda v: Image.fromarray((v * 4095).astype(np.uint16))),
    "32 bits": (".tif", lambda v: Image.fromarray((v * 65535).astype(np.int32))),
    "float": (".tif", lambda v: Image.fromarray(v.astype(np.float32))),
    "float to 255": (".tif", lambda v: Image.fromarray((v * 255).astype(np.float32))),
    "signed float": (".tif", lambda v: Image.fromarray((v * 8 - 4).astype(np.float32))),
    "palette": (".gif", lambda v: Image.fromarray(_bytes(v)).convert("P")),
    "alpha": (".webp", lambda v: _on_ground(1 - v, 0)),
    "white on nothing": (".png", lambda v: _on_ground(v, 255)),
    "grey and alpha": (".png", lambda v: Image.merge("LA", (Image.fromarray(_bytes(v)), Image.new("L", (6, 6), 255)))),
}


def _folder(root: Path, suffix: str, make: Callable[[Drawing], Image.Image]) -> TaskData:
    for number in range(24):
        place = root / "ab"[number % 2]
        place.mkdir(exist_ok=True)
        options = {"lossless": True} if suffix == ".webp" else {}
        make(_drawing(number)).save(place / f"{number:02d}{suffix}", **options)
    return load_data(f"imagefolder:{root}", preparation=Preparation(6))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_shows_the_same_drawings(tmp_path: Path, mode: str) -> None:
    data = _folder(tmp_path, *MODES[mode])
    read = torch.cat([part.inputs for part in (data.train, data.validation, data.test)])
    expected = np.stack([_bytes(_drawing(number)) for number in range(24)])
    assert (read == read[:, :1]).all(), "grey"
    order = [row.tolist() for row in expected.reshape(24, -1)]
    difference = [min(np.abs(np.array(row) - np.array(drawing)).max() for drawing in order)
                  for row in read[:, 0].flatten(1).tolist()]
    assert len(read) == 24
    assert max(difference) <= 1


def test_transparency_of_a_palette_lies_on_white(tmp_path: Path) -> None:
    def make(values: Drawing) -> Image.Image:
        picture = Image.fromarray((values > 0.5).astype(np.uint8) + 1).convert("P")
        picture.putpalette([0, 0, 0, 10, 20, 30, 200, 100, 0])
        picture.info["transparency"] = 1
        return picture

    read = _folder(tmp_path, ".png", make).train.inputs
    colours = {tuple(pixel) for pixel in read.permute(0, 2, 3, 1).reshape(-1, 3).tolist()}
    assert (255, 255, 255) in colours
    assert (10, 20, 30) not in colours


def test_pictures_are_turned_as_their_exif_data_say(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    top_white = np.zeros((6, 6), np.uint8)
    top_white[:3] = 255
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(12):
            exif = Image.Exif()
            exif[0x0112] = 6 if number % 2 else 1
            stored = np.rot90(top_white, 1) if number % 2 else top_white
            Image.fromarray(stored.copy()).save(tmp_path / name / f"{number}.png", exif=exif)
    with caplog.at_level(logging.INFO):
        read = load_data(f"imagefolder:{tmp_path}", preparation=Preparation(6)).train.inputs
    assert (read[:, 0] == torch.from_numpy(top_white)).all()
    assert "12 pictures were turned upright" in caplog.text


def _plain(root: Path, count: int = 6, name: str = "") -> None:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(_bytes(_drawing(number))).save(root / f"{name}{number}.png")


def test_hidden_files_are_skipped_and_others_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "ab":
        _plain(tmp_path / name, 10)
        (tmp_path / name / "._0.png").write_bytes(b"\0\5\x16\7")
        (tmp_path / name / ".DS_Store").write_bytes(b"x")
        (tmp_path / name / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "__MACOSX" / "a").mkdir(parents=True)
    (tmp_path / "a" / "deeper" / "still").mkdir(parents=True)
    _plain(tmp_path / "a" / "deeper" / "still", 2)
    (tmp_path / "a" / "0.txt").write_text("a label")
    (tmp_path / "b" / "notes").write_text("none")
    with caplog.at_level(logging.INFO):
        data = load_data(f"imagefolder:{tmp_path}", preparation=Preparation(6))
    assert (data.classes, data.class_names) == (2, ("a", "b"))
    assert len(data.train) + len(data.validation) + len(data.test) == 22
    assert "left out 2 files that Pillow does not read as pictures: 1 of .txt, 1 of no suffix" in caplog.text
    assert "unreadable" not in caplog.text


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        _plain(tmp_path / name, 10)
    data = load_data(f"imagefolder:{tmp_path}", preparation=Preparation(6))
    assert data.class_names == ("bus", "car", "train")


def test_splits_hold_class_folders_in_any_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split, count in (("Training", 8), ("VAL", 3), ("Test", 2)):
        for name in ("test", "train"):  # classes
            _plain(tmp_path / split / name, count)
    _plain(tmp_path / "unlabelled")
    data = load_data(f"imagefolder:{tmp_path}", preparation=Preparation(6))
    assert (len(data.train), len(data.validation), len(data.test)) == (16, 6, 4)
    assert data.class_names == ("test", "train")
    assert "left out unlabelled" in caplog.text


def test_splits_without_classes_are_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        _plain(tmp_path / split)
    with pytest.raises(InputError, match="train, val must hold one folder of pictures for each class"):
        load_data(f"imagefolder:{tmp_path}", preparation=Preparation(6))


def test_an_empty_class_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "ac":
        _plain(tmp_path / name, 10)
    (tmp_path / "b").mkdir()
    assert load_data(f"imagefolder:{tmp_path}", preparation=Preparation(6)).classes == 3
    assert "no picture to train with is in the class b" in caplog.text


def test_a_split_may_lack_a_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split, classes in (("train", "abc"), ("val", "ac"), ("test", "abc")):
        for name in classes:
            _plain(tmp_path / split / name)
    data = load_data(f"imagefolder:{tmp_path}")
    assert sorted({*data.validation.targets.tolist()}) == [0, 2]
    assert "val: no pictures of 1 classes that are trained, such as b" in caplog.text


def test_classes_of_one_picture_are_trained(tmp_path: Path) -> None:
    for name, count in (("common", 30), ("also", 30), ("rare", 1), ("rarer", 1)):
        _plain(tmp_path / name, count)
    data = load_data(f"imagefolder:{tmp_path}", preparation=Preparation(6))
    assert set(data.train.targets.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(("shape", "resize", "size"), [((40, 30), 20, 16), ((30, 41), 16, 16), ((33, 47), 24, 10)])
def test_sizes_are_those_of_torchvisions_evaluation(tmp_path: Path, shape: tuple[int, int], resize: int,
                                                    size: int) -> None:
    from autocompress.tasks.vision import import_torchvision

    import_torchvision()
    from torchvision.transforms import functional

    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(10):
            values = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
            Image.fromarray(values).save(tmp_path / name / f"{number}.png")
    data = load_data(f"imagefolder:{tmp_path}", preparation=Preparation(size, resize))
    scaled = functional.resize(Image.fromarray(values), resize)  # type: ignore[arg-type]
    expected = np.asarray(functional.center_crop(scaled, [size, size])).transpose(2, 0, 1)  # type: ignore[arg-type]
    assert np.array_equal(data.train.inputs[0].numpy(), expected)
    assert f"{size}×{size}" in data.prepared
