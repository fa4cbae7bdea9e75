from __future__ import annotations

import gzip
import logging
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autocompress.errors import EnvironmentFault, InputError
from autocompress.tasks import cache, named_sets
from autocompress.tasks.data import load_data
from autocompress.tasks.preparation import Preparation


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network and an empty cache, whose folder is returned."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(named_sets, "FASHION_FOLDERS", (tmp_path / "absent",))
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_digits() -> None:
    data = load_data("digits")
    assert (len(data.train), len(data.validation), len(data.test)) == (1079, 359, 359)
    assert (data.input_shape, data.classes) == ((1, 16, 16), 10)
    batch = data.normalise(data.train.inputs)
    assert abs(float(batch.mean())) < 0.01
    assert abs(float(batch.std()) - 1) < 0.01
    assert data.fingerprint == load_data("digits").fingerprint != load_data("digits", seed=1).fingerprint
    for split in (data.train, data.validation, data.test):
        shares = torch.bincount(split.targets, minlength=10) / len(split)
        assert (shares - 0.1).abs().max() < 0.006


def _idx(path: Path, array: np.ndarray, pack: bool) -> None:
    head = np.array([0x800 + array.ndim, *array.shape], dtype=">u4").tobytes()
    content = head + array.astype(np.uint8).tobytes()
    (path.with_name(path.name + ".gz") if pack else path).write_bytes(gzip.compress(content) if pack else content)


def _fashion(folder: Path, pack: bool) -> np.ndarray:
    """The real number of training labels, pictures of one pixel that tell their index modulo 251."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, count in (("train", 60000), ("t10k", 50)):
        _idx(folder / f"{stem}-images-idx3-ubyte", np.arange(count).reshape(-1, 1, 1) % 251, pack)
        _idx(folder / f"{stem}-labels-idx1-ubyte", np.arange(count) % 10, pack)
    return np.random.RandomState(0).permutation(60000)


@pytest.mark.parametrize("pack", [True, False])
def test_fashion_mnist_is_split_by_the_fixed_permutation(tmp_path: Path, pack: bool) -> None:
    order = _fashion(tmp_path / "FashionMNIST" / "raw", pack)
    data = load_data("fashion-mnist", root=tmp_path, seed=5)
    assert (len(data.train), len(data.validation), len(data.test)) == (55000, 5000, 50)
    assert np.array_equal(data.validation.targets.numpy(), order[:5000] % 10)
    assert np.array_equal(data.train.inputs.numpy().ravel(), order[5000:] % 251)
    assert (data.mean, data.std, data.pad, data.flip) == ((0.2860,), (0.3530,), 2, True)


@pytest.mark.skipif(
    not any(folder.is_dir() for folder in named_sets.FASHION_FOLDERS),
    reason="the package dataset-fashion-mnist is absent",
)
def test_fashion_mnist_of_the_system() -> None:
    data = load_data("fashion-mnist")
    assert (len(data.train), len(data.validation), len(data.test)) == (55000, 5000, 10000)
    assert data.input_shape == (1, 28, 28)
    assert abs(float(data.normalise(data.train.inputs).mean())) < 0.01


def test_damaged_idx_files_are_refused(tmp_path: Path) -> None:
    _fashion(tmp_path, pack=False)
    with pytest.raises(InputError, match="must hold train-images"):
        load_data("fashion-mnist", root=tmp_path / "absent")
    images = tmp_path / "train-images-idx3-ubyte"
    for content, message in (
        (images.read_bytes()[:5000], "ends after 4,984"),
        (b"\0\0\x08\x01" + images.read_bytes()[4:], "idx file"),
        (b"", "idx file"),
    ):
        images.write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_data("fashion-mnist", root=tmp_path)
    images.unlink()
    images.with_name(images.name + ".gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match="intact"):
        load_data("fashion-mnist", root=tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    _idx(images, np.zeros((60000, 1, 1)), pack=False)
    with pytest.raises(InputError, match="t10k-labels"):
        load_data("fashion-mnist", root=tmp_path)


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_without_network_the_fault_says_where_to_put_the_files(offline: Path, name: str) -> None:
    with pytest.raises(EnvironmentFault, match=str(offline)):
        load_data(name)


def test_a_server_that_never_answers_is_abandoned(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def wait(*args: object, **kwargs: object) -> None:
        over.wait(60)
        raise OSError("given up")

    monkeypatch.setattr(cache, "NETWORK_TIMEOUT_S", -0.9)
    monkeypatch.setattr(urllib.request, "urlopen", wait)
    try:
        with pytest.raises(EnvironmentFault, match="cannot be reached"):
            load_data("fashion-mnist")
    finally:
        over.set()


def test_a_download_that_breaks_off_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_answers", lambda url: True)
    fault = pytest.raises(EnvironmentFault, match=r"X could not be downloaded .*reset.*: do this")
    with fault, cache.downloading("https://example.invalid", "X", "do this"):
        raise ConnectionResetError("reset by peer")


def _class_folders(root: Path, count: int = 12, size: tuple[int, int] = (10, 6), names: str = "ab") -> None:
    for value, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", size, (200 * value, i, 0)).save(root / name / f"{i}.png")


def test_image_folder_without_splits(tmp_path: Path) -> None:
    _class_folders(tmp_path)
    data = load_data(f"imagefolder:{tmp_path}", preparation=Preparation(4))
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 2, 2)
    assert (data.input_shape, data.train.inputs.dtype, data.classes) == ((3, 4, 4), torch.uint8, 2)
    assert torch.equal((data.train.inputs[:, 0, 0, 0] == 200).long(), data.train.targets)


def test_image_folder_with_splits(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        _class_folders(tmp_path / split, count)
    data = load_data(f"imagefolder:{tmp_path}", preparation=Preparation(4))
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 6, 4)
    _class_folders(tmp_path / "test", names="abc")
    with pytest.raises(InputError, match="'c' is not"):
        load_data(f"imagefolder:{tmp_path}", preparation=Preparation(4))


def test_the_middle_square_is_kept(tmp_path: Path) -> None:
    _class_folders(tmp_path)
    wide = np.zeros((4, 12, 3), dtype=np.uint8)
    wide[:, 4:8] = 255
    for name in "ab":
        for path in (tmp_path / name).iterdir():
            Image.fromarray(wide).save(path)
    assert int(load_data(f"imagefolder:{tmp_path}", preparation=Preparation(4)).train.inputs.min()) == 255


def test_few_corrupt_images_are_skipped_many_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _class_folders(tmp_path, count=20)
    (tmp_path / "a" / "3.png").write_bytes(b"no picture")
    (tmp_path / "b" / "7.png").write_bytes((tmp_path / "b" / "7.png").read_bytes()[:40])
    with caplog.at_level(logging.WARNING):
        data = load_data(f"imagefolder:{tmp_path}", preparation=Preparation(4))
    assert len(data.train) + len(data.validation) + len(data.test) == 38
    assert "2 unreadable of 40" in caplog.text
    (tmp_path / "a" / "9.png").write_bytes(b"")
    with pytest.raises(InputError, match="3 of 40"):
        load_data(f"imagefolder:{tmp_path}", preparation=Preparation(4))


def test_image_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        load_data(f"imagefolder:{tmp_path / 'absent'}")
    with pytest.raises(InputError, match="holds no picture"):
        load_data(f"imagefolder:{tmp_path}")
    _class_folders(tmp_path, names="a")
    with pytest.raises(InputError, match="at least 2 classes"):
        load_data(f"imagefolder:{tmp_path}", preparation=Preparation(4))
    with pytest.raises(InputError, match="at most 8192 pixels"):
        load_data(f"imagefolder:{tmp_path}", preparation=Preparation(100_000))
    with pytest.raises(InputError, match="1 pixel"):
        load_data(f"imagefolder:{tmp_path}", preparation=Preparation(0))


@pytest.mark.parametrize("spec", ["mnist", "npz:", "imagefolder:", "", "file.txt"])
def test_unknown_specs_list_the_known(spec: str) -> None:
    with pytest.raises(InputError, match="fashion-mnist, cifar10"):
        load_data(spec)
