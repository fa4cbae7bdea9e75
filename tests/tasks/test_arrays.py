from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from autocompress.errors import InputError
from autocompress.tasks import arrays, npz
from autocompress.tasks.data import load_data

Arrays = tuple[np.ndarray, np.ndarray]


def test_arrays_are_split_80_10_10(pixels: Arrays) -> None:
    data = load_data(pixels)
    assert (len(data.train), len(data.validation), len(data.test)) == (48, 6, 6)
    assert data.classes == 3
    assert data.input_shape == (1, 8, 8)
    assert data.train.inputs.dtype == torch.uint8
    assert data.fingerprint == load_data(tuple(map(torch.from_numpy, pixels))).fingerprint
    assert data.fingerprint != load_data(pixels, seed=1).fingerprint


def test_a_list_of_samples_is_a_dataset(pixels: Arrays) -> None:
    dataset = TensorDataset(*map(torch.from_numpy, pixels))
    assert load_data([*dataset]).fingerprint == load_data(dataset).fingerprint == load_data(pixels).fingerprint


def test_a_dict_of_splits_with_options(pixels: Arrays) -> None:
    x, y = pixels
    data = load_data(
        {"train": pixels, "val": (x[:9], y[:9]), "test": (x[:6], y[:6])}
        | {"mean": 0.5, "std": [0.5], "classes": 4, "pad": 1}
    )
    assert (len(data.train), len(data.validation), len(data.test)) == (60, 9, 6)
    assert (data.mean, data.std, data.classes, data.pad) == ((0.5,), (0.5,), 4, 1)
    with pytest.raises(InputError, match="tets"):
        load_data({"train": pixels, "tets": pixels})


def test_pairs_of_arrays(pixels: Arrays) -> None:
    assert len(load_data((pixels, pixels)).test) == 60
    assert len(load_data([pixels, pixels, pixels]).validation) == 60


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((20, 8, 6), "uint8", (1, 8, 6)),
        ((20, 8, 6, 3), "uint8", (3, 8, 6)),
        ((20, 3, 8, 3), "uint8", (3, 8, 3)),
        ((20, 2, 8, 6), "float64", (2, 8, 6)),
        ((20, 5), "float16", (5,)),
        ((20, 7, 5), ">f4", (7, 5)),
    ],
)
def test_layouts(shape: tuple[int, ...], dtype: str, expected: tuple[int, ...]) -> None:
    data = load_data((np.ones(shape, dtype=dtype), np.arange(20) % 2))
    assert data.input_shape == expected
    assert data.train.inputs.dtype == (torch.uint8 if dtype == "uint8" else torch.float32)


def test_channels_last_is_turned_not_reread() -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, 8, 6, 3), dtype=np.uint8)
    data = load_data({"train": (x, np.arange(20) % 2)} | {n: (x, np.arange(20) % 2) for n in ("validation", "test")})
    assert np.array_equal(data.train.inputs.numpy(), x.transpose(0, 3, 1, 2))


class Pictures(Dataset[Any]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (6, 4), (index, 0, 0)), index % 2


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return ((torch.full((1, 2, 2), float(i)), torch.tensor(i % 2)) for i in range(20))


def test_datasets_become_tensors() -> None:
    data = load_data((Pictures(30), Pictures(8)))
    assert (len(data.train), len(data.validation), len(data.test)) == (27, 3, 8)
    assert data.input_shape == (3, 4, 6)
    assert data.test.inputs[:, 0, 0, 0].tolist() == list(range(8))
    assert len(load_data(Stream()).train) == 16
    assert load_data(TensorDataset(torch.rand(20, 4), torch.arange(20) % 2)).input_shape == (4,)


class Broken(Pictures):
    def __getitem__(self, index: int) -> Any:
        if index == 3:
            raise OSError("file gone")
        return torch.zeros(1, 2, 2 + index % 2), 0


def test_a_dataset_that_fails_names_the_sample() -> None:
    with pytest.raises(InputError, match=r"sample 3 .*file gone"):
        load_data(Broken(9))
    with pytest.raises(InputError, match="share one shape"):
        load_data(Broken(3))
    with pytest.raises(InputError, match="empty"):
        load_data(Pictures(0))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "but got int"),
        ((), "a tuple of nothing"),
        ((np.zeros((20, 4), dtype=complex), np.arange(20) % 2), "real numbers"),
        ((np.zeros((20, 4)), np.arange(20) % 2 + 0.5), "labels must be integers"),
        ((np.zeros((20, 4)), np.zeros((20, 3), dtype=int)), "one integer a sample"),
        ((np.zeros((20, 4)), np.arange(20) % 2 + 1), "without a gap, but they are 1, 2"),
        ((np.zeros((20, 4)), np.zeros(20, dtype=int)), "at least 2 classes"),
        ((np.zeros((0, 4)), np.zeros(0, dtype=int)), "at least 2 classes"),
        ((np.zeros((4, 4)), np.arange(4) % 2), "split is empty"),
        ((np.full((20, 4), np.nan), np.arange(20) % 2), "NaN"),
        ((np.array(["a"] * 20), np.arange(20) % 2), "numeric array"),
        ((np.array([object()] * 20), np.arange(20) % 2), "numeric array"),
        ({"train": 3}, "pair or a torch Dataset, but is int"),
        ({"train": (np.zeros((20, 4)), np.arange(20) % 2), "classes": "many"}, "classes must be a whole number"),
    ],
)
def test_bad_values_are_refused(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data(value)


def test_npz_spellings(tmp_path: Path, pixels: Arrays) -> None:
    x, y = pixels
    np.savez(tmp_path / "one.npz", x=x, y=y)
    np.savez_compressed(
        tmp_path / "three.npz", x_train=x, y_train=y[:, None], x_val=x[:9], y_val=y[:9], x_test=x[:6], y_test=y[:6],
        mean=[0.5], std=[0.25], flip=True,
    )
    assert load_data(f"npz:{tmp_path / 'one.npz'}").fingerprint == load_data(pixels).fingerprint
    data = load_data(f"npz:{tmp_path / 'three.npz'}")
    assert (data.name, len(data.validation), len(data.test)) == ("three", 9, 6)
    assert (data.mean, data.std, data.flip) == ((0.5,), (0.25,), True)


def _npz(tmp_path: Path, content: bytes) -> str:
    (tmp_path / "bad.npz").write_bytes(content)
    return f"npz:{tmp_path / 'bad.npz'}"


def test_damaged_npz_is_refused(tmp_path: Path, pixels: Arrays) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=pixels[0], y=pixels[1])
    whole = buffer.getvalue()
    garbled = bytearray(whole)
    garbled[200:260] = bytes(60)
    for content in (b"", b"not a zip", whole[: len(whole) // 2], bytes(garbled)):
        with pytest.raises(InputError, match="intact"):
            load_data(_npz(tmp_path, content))
    with pytest.raises(InputError, match="no file"):
        load_data("npz:absent.npz")


def test_npz_never_unpickles(tmp_path: Path, pixels: Arrays) -> None:
    ran = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    np.savez(tmp_path / "bad.npz", x=np.array([Payload()] * 4, dtype=object), y=pixels[1], allow_pickle=True)
    with pytest.raises(InputError, match=r"x holds Python objects, .*: store names by x\.astype\(str\)"):
        load_data(f"npz:{tmp_path / 'bad.npz'}")
    assert not ran.exists()


def test_a_single_array_in_a_file_and_a_file_without_a_kind_are_told_from_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 3)))
    with pytest.raises(InputError, match=r"put the arrays into one file by numpy\.savez"):
        load_data(f"npz:{tmp_path / 'x.npy'}")
    with pytest.raises(InputError, match=r"npz:FILE, csv:FILE, masks:IMAGES\[,MASKS\], .* but got 'table\.csv'"):
        load_data("table.csv")


def test_npz_without_the_names_lists_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", images=np.zeros(3))
    with pytest.raises(InputError, match="holds images"):
        load_data(f"npz:{tmp_path / 'bad.npz'}")


def test_zip_bomb_is_refused_before_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "bad.npz", x=np.zeros((64, 2**17), dtype=np.uint8), y=np.arange(64) % 2)
    with monkeypatch.context() as patched:
        patched.setattr(zipfile.ZipFile, "open", lambda *a, **k: pytest.fail("unpacked"))
        with pytest.raises(InputError, match="zip bomb"):
            load_data(f"npz:{tmp_path / 'bad.npz'}")


def test_what_is_too_large_to_be_unpacked_is_taken_uncompressed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MAX_UNPACKED_BYTES", 1000)
    x = np.random.default_rng(0).random((20, 100))
    np.savez_compressed(tmp_path / "bad.npz", x=x, y=np.arange(20) % 2)
    with pytest.raises(InputError, match=r"store them uncompressed \(numpy.savez\)"):
        load_data(f"npz:{tmp_path / 'bad.npz'}")
    np.savez(tmp_path / "good.npz", x=x, y=np.arange(20) % 2)
    assert len(load_data(f"npz:{tmp_path / 'good.npz'}").train) == 16


@pytest.mark.parametrize("kind", ["float64", "uint8", "uint16", "float32"])
def test_large_arrays_are_read_from_their_files(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an .npz, of a mapped .npy, and of a Dataset, which is written to the cache: the same data as in memory."""
    x, y = np.random.default_rng(0).integers(0, 99, (40, 6, 5, 3)).astype(kind), np.arange(40) % 3
    np.savez(tmp_path / "x.npz", x=x, y=y)
    np.save(tmp_path / "x.npy", x)
    whole = load_data((x, y))
    for name, value in ((arrays, "HELD_BYTES"), (npz, "MAPPED_BYTES")):
        monkeypatch.setattr(name, value, 100)
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    sources: list[Any] = [f"npz:{tmp_path / 'x.npz'}", (np.load(tmp_path / "x.npy", mmap_mode="r"), y)]
    if kind != "uint16":
        sources.append(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)))
    for source in sources:
        data = load_data(source)
        assert not isinstance(data.train.inputs, torch.Tensor)
        assert torch.equal(data.train.inputs[:], whole.train.inputs)
        assert data.fingerprint == whole.fingerprint



def test_an_array_header_that_lies_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**60, 8)})
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
        archive.writestr("y.npy", header.getvalue())
    with pytest.raises(InputError, match="declares"):
        load_data(f"npz:{tmp_path / 'bad.npz'}")


def test_a_function_that_augments_comes_with_python_objects_only(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).random((20, 4), dtype=np.float32), np.arange(20) % 2
    data = load_data({"train": (x, y), "augment": lambda inputs, generator: -inputs})
    torch.testing.assert_close(data.train_view(1, 0), -data.train.inputs)
    with pytest.raises(InputError, match="`augment` must be a function"):
        load_data({"train": (x, y), "augment": 3})
    np.savez(tmp_path / "data.npz", x=x, y=y, augment=np.array(3))
    assert load_data(f"npz:{tmp_path / 'data.npz'}").augment is None
