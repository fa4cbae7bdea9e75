"""Pictures that are decoded when they are needed are those that are decoded before."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autocompress.errors import InputError
from autocompress.tasks import decoded_pictures, image_folder, picture_cache, picture_listing
from autocompress.tasks.data import load_data
from autocompress.tasks.picture_cache import PictureCache
from autocompress.tasks.picture_listing import FileNames, list_pictures
from autocompress.tasks.preparation import Preparation
from autocompress.tasks.splits import SPLITS, TaskData

CLASSES, EACH = ("cat", "dog", "emu"), 24


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    """Random pictures in three classes, some of them in a folder deeper."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "photos" / name / "more").mkdir(parents=True)
        for i in range(EACH):
            place = tmp_path / "photos" / name / ("more" if i % 5 == 0 else "")
            Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every folder as a large one."""
    monkeypatch.setattr(image_folder, "HELD_PICTURES", 0)


def _load(folder: Path, cache_bytes: int = 10**9) -> TaskData:
    return load_data(f"imagefolder:{folder}", preparation=Preparation(6), cache_bytes=cache_bytes)


def test_streamed_pictures_are_those_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = _load(folder)
    monkeypatch.setattr(image_folder, "HELD_PICTURES", 0)
    streamed = _load(folder)
    assert isinstance(held.train.inputs, torch.Tensor) and not isinstance(streamed.train.inputs, torch.Tensor)
    for name in SPLITS:
        one, other = getattr(held, name), getattr(streamed, name)
        assert torch.equal(one.inputs, other.inputs[:])
        assert torch.equal(one.targets, other.targets)
    rows = torch.tensor([5, 0, 3])
    assert torch.equal(held.train_view(1, 7)[rows], streamed.train_view(1, 7)[rows])
    assert torch.equal(held.inputs("test", slice(1, 3)), streamed.inputs("test", slice(1, 3)))


@pytest.mark.usefixtures("streaming")
def test_loading_decodes_no_more_than_it_looks_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    monkeypatch.setattr(image_folder, "LOOKED_AT", 4)
    monkeypatch.setattr(decoded_pictures, "square",
                        lambda path, *how: decoded.append(path) or np.zeros((3, 6, 6), np.uint8))
    data = _load(folder)
    assert len(decoded) == 4
    assert data.fingerprint
    view = data.train_view(1, 0)
    assert len(decoded) == 4
    assert len(view[torch.tensor([1, 2, 3])]) == 3
    assert len(decoded) <= 7


@pytest.mark.usefixtures("streaming")
def test_decoded_pictures_are_kept_for_later_and_for_others(
        folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _load(folder).train.inputs[:]
    monkeypatch.setattr(decoded_pictures, "square", lambda *how: pytest.fail("decoded again"))
    again = _load(folder).train.inputs
    assert torch.equal(again[:], first)
    assert torch.equal(pickle.loads(pickle.dumps(again))[:], first), "as another process gets them"
    (pixels,) = cache.glob("pictures/*/pixels.bin")
    with pixels.open("r+b") as stream:
        stream.write(bytes(pixels.stat().st_size))
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        _load(folder)


@pytest.mark.usefixtures("streaming")
def test_a_changed_picture_is_decoded_again(folder: Path) -> None:
    before = _load(folder)
    assert _load(folder).fingerprint == before.fingerprint
    Image.new("RGB", (9, 7), (1, 2, 3)).save(folder / "cat" / "1.png")
    after = _load(folder)
    whole = torch.cat([getattr(after, name).inputs[:] for name in SPLITS])
    assert (whole == torch.tensor([1, 2, 3], dtype=torch.uint8).view(3, 1, 1)).flatten(1).all(1).any()
    assert after.fingerprint != before.fingerprint


@pytest.mark.usefixtures("streaming")
def test_what_does_not_fit_is_decoded_each_time(folder: Path, cache: Path) -> None:
    whole = _load(folder, cache_bytes=1).train.inputs[:]
    assert [path.stat().st_size for path in cache.glob("pictures/*/pixels.bin")] == [0]
    assert torch.equal(_load(folder).train.inputs[:], whole)


def test_the_cache_makes_room_by_what_was_not_used_for_longest(tmp_path: Path) -> None:
    row, limit = bytes(range(200)) * 100, 150_000
    for number, key in enumerate(("old", "new")):
        other = PictureCache(tmp_path, key, 4, len(row), limit)
        other.write(0, memoryview(row))
        del other
        os.utime(tmp_path / key / "sums.bin", (number, number))
    held = PictureCache(tmp_path, "held", 4, len(row), limit)
    held.write(0, memoryview(row))
    os.utime(tmp_path / "held" / "sums.bin", (0, 0))
    mine = PictureCache(tmp_path, "mine", 9, len(row), limit)
    for number in range(9):
        mine.write(number, memoryview(row))
    left = {path.name for path in tmp_path.iterdir()}
    assert "old" not in left and {"held", "mine"} <= left, "what is in use stays"
    assert 4 <= mine.held < 9
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.glob("*/pixels.bin")) <= limit + len(row)
    buffer = bytearray(len(row))
    assert mine.read(0, memoryview(buffer)) and bytes(buffer) == row
    assert not mine.read(8, memoryview(buffer))


def test_a_cache_that_cannot_be_written_costs_time_alone(
        folder: Path, cache: Path, streaming: None, caplog: pytest.LogCaptureFixture) -> None:
    cache.mkdir()
    (cache / "pictures").touch()
    with caplog.at_level(logging.INFO):
        assert len(_load(folder).train.inputs[:]) == 58
    assert "decoded pictures are not kept" in caplog.text


@pytest.mark.usefixtures("streaming")
def test_an_unreadable_picture_that_is_looked_at_is_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "cat" / "3.png").write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        data = _load(folder)
    assert sum(len(getattr(data, name)) for name in SPLITS) == 71
    assert "left out 1 unreadable of 72 pictures that were looked at" in caplog.text
    for name in CLASSES:
        for number in range(1, 5):
            (folder / name / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="at most 5% of the pictures may be unreadable, but 12 of 72 are"):
        _load(folder)


@pytest.mark.usefixtures("streaming")
def test_an_unreadable_picture_that_is_met_later_is_replaced(
        folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(image_folder, "LOOKED_AT", 1)
    whole = _load(folder)
    bad = [whole.train.inputs.samples.path(int(whole.train.inputs.rows[row])) for row in range(1, 5)]
    shutil.rmtree(Path(os.environ["AUTOCOMPRESS_CACHE"]))
    for path in bad[:3]:
        path.write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        data = _load(folder)
        inputs = data.train.inputs[:]
        again = data.train.inputs[torch.tensor([1])]
    assert len(inputs) == len(whole.train) and "2 of 72 so far" in caplog.text
    assert torch.equal(inputs[1:2], again)
    same_class = whole.train.inputs[:][whole.train.targets == whole.train.targets[1]]
    everything = torch.cat([same_class, *(getattr(data, name).inputs[:] for name in SPLITS)])
    assert (everything == inputs[1]).flatten(1).all(1).any()
    bad[3].write_bytes(b"")
    with pytest.raises(InputError, match="but 4 of 72 are"):
        _load(folder).train.inputs[:]


@pytest.mark.usefixtures("streaming")
def test_a_class_without_a_readable_picture_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folder, "LOOKED_AT", 1)
    monkeypatch.setattr(decoded_pictures, "MAX_CORRUPT_SHARE", 1.0)
    for path in (folder / "dog").rglob("*.png"):
        path.write_bytes(b"no picture")
    data = _load(folder)
    with pytest.raises(InputError, match="none of its 24 pictures can be read"):
        data.train.inputs[:]


def test_large_folders_are_known_by_names_sizes_and_some_contents(
        folder: Path, streaming: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(decoded_pictures, "READ_WHOLE_FILES", 10)
    monkeypatch.setattr(decoded_pictures, "SAMPLED_ROWS", 2)
    with caplog.at_level(logging.INFO):
        before = _load(folder).fingerprint
    assert "sampled contents" in caplog.text
    shutil.copytree(folder, folder.parent / "copy")
    assert _load(folder.parent / "copy").fingerprint == before, "wherever the pictures lie"
    (folder / "dog" / "1.png").rename(folder / "dog" / "1b.png")
    assert _load(folder).fingerprint != before


def test_a_listing_is_used_again_until_a_folder_changes(
        folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_listing, "KEPT_FILES", 1)
    for path in (folder / "cat" / "more", *folder.iterdir(), *folder.glob("*/*.png")):
        os.utime(path, (1, 1))
    for path in folder.glob("*/more"):
        os.utime(path, (1, 1))
    (folder / "dog" / "notes.txt").touch()
    os.utime(folder / "dog", (1, 1))
    first = list_pictures(folder, CLASSES)
    monkeypatch.setattr(picture_listing, "_walked", lambda *args: pytest.fail("walked"))
    again = list_pictures(folder, CLASSES)
    assert (again.digest, list(again.names), again.others) == (first.digest, list(first.names), {".txt": 1})
    assert np.array_equal(again.labels, first.labels)
    with pytest.raises(pytest.fail.Exception):
        list_pictures(folder, CLASSES[:2])
    os.utime(folder / "cat" / "1.png", (2, 2))
    with pytest.raises(pytest.fail.Exception):
        list_pictures(folder, CLASSES)
    os.utime(folder / "cat" / "1.png", (1, 1))
    (folder / "emu" / "more" / "new.png").touch()
    with pytest.raises(pytest.fail.Exception):
        list_pictures(folder, CLASSES)


def test_a_folder_that_has_just_changed_is_listed_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_listing, "KEPT_FILES", 1)
    list_pictures(folder, CLASSES)
    monkeypatch.setattr(picture_listing, "_walked", lambda *args: pytest.fail("walked"))
    with pytest.raises(pytest.fail.Exception):
        list_pictures(folder, CLASSES)


def test_names_of_any_bytes_are_kept() -> None:
    names = ["a/b.jpg", "", "ü.png", os.fsdecode(b"\xff.png")]
    kept = FileNames.of(names)
    assert list(kept) == names and kept[1:3] == names[1:3]


def test_a_disk_that_is_almost_full_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_cache, "LEFT_FREE_BYTES", 10**18)
    cache = PictureCache(tmp_path, "mine", 4, 100, 10**9)
    cache.write(0, memoryview(bytes(100)))
    assert cache.held == 0
