"""Pictures with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from source_files import write_picture

from autocompress.errors import InputError
from autocompress.tasks.preparation import Preparation
from autocompress.tasks.sources.base import SourceContext
from autocompress.tasks.sources.opened import open_source

Folders = tuple[Path, Path]


def opened(folders: Folders, query: str = "", **preparation: int) -> object:
    return open_source(f"masks:{folders[0]},{folders[1]}{query}",
                       SourceContext(preparation=Preparation(**preparation)))  # type: ignore[arg-type]


def first(source: object) -> dict[str, torch.Tensor]:
    return source.splits["train"][0]  # type: ignore[attr-defined, no-any-return]


def test_pictures_of_one_size_stay_as_they_are(masked: Folders) -> None:
    source = opened(masked)
    sample = first(source)
    assert sample["input"].shape == (3, 8, 10) and sample["input"].dtype == torch.uint8
    assert sample["target"].dtype == torch.int64 and source.classes == 2  # type: ignore[attr-defined]
    assert bool((sample["target"][:-1, :3] == 1).all() and (sample["target"][:-1, 3:] == 0).all())
    assert bool((sample["target"][-1] == -100).all())


def test_masks_follow_their_pictures_to_another_size(masked: Folders) -> None:
    stretched = first(opened(masked, image_size=20))["target"]
    assert stretched.shape == (20, 20) and bool((stretched[:17, :6] == 1).all() and (stretched[:17, 6:] == 0).all())
    padded = first(opened(masked, "?fit=pad", image_size=20))
    assert padded["target"].shape == (20, 20) and bool((padded["input"][:, :2] == 114).all())
    assert bool((padded["target"][:2] == -100).all() and (padded["target"][2:16, :6] == 1).all())
    cut = first(opened(masked, "?fit=crop", image_size=8))["target"]
    assert cut.shape == (8, 8) and bool((cut[:7, :2] == 1).all() and (cut[:7, 2:] == 0).all())


def test_masks_of_black_and_white_are_two_classes(masked: Folders) -> None:
    for path in masked[1].iterdir():
        write_picture(path, np.pad(np.full((8, 3), 255, np.uint8), ((0, 0), (0, 7))))
    source = opened(masked)
    assert source.classes == 2  # type: ignore[attr-defined]
    assert sorted(first(source)["target"].unique().tolist()) == [0, 1]
    with pytest.raises(InputError, match="every pixel is 255, which does not count"):
        for path in masked[1].iterdir():
            write_picture(path, np.full((8, 10), 255, np.uint8))
        opened(masked)


def test_splits_by_folder_and_pictures_alone(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for number in range(2):
            write_picture(tmp_path / "images" / split / f"{number}.png", np.zeros((8, 8, 3), np.uint8))
            write_picture(tmp_path / "masks" / split / f"{number}.png", np.eye(8, dtype=np.uint8))
    source = opened((tmp_path / "images", tmp_path / "masks"))
    assert {split: len(samples) for split, samples in source.splits.items()} == {  # type: ignore[attr-defined]
        "train": 2, "validation": 2, "test": 2}
    alone = open_source(f"masks:{tmp_path}/images", SourceContext())
    assert not alone.labelled and alone.classes is None and set(first(alone)) == {"input"}


def test_pictures_and_masks_that_do_not_belong_together(masked: Folders) -> None:
    images, masks = masked
    (masks / "3.png").rename(masks / "99.png")
    with pytest.raises(InputError, match=r"3\.jpg must have a mask of the same name"):
        opened(masked)
    (images / "3.jpg").unlink()
    with pytest.raises(InputError, match=r"99\.png must have a picture of the same name"):
        opened(masked)
    (masks / "99.png").unlink()
    write_picture(masks / "4.png", np.zeros((8, 9), np.uint8))
    with pytest.raises(InputError, match=r"4\.png must be of the size of its picture 4\.jpg, 10×8, but is 9×8"):
        opened(masked)
    write_picture(masks / "4.png", np.zeros((8, 10, 3), np.uint8))
    with pytest.raises(InputError, match=r"mask of one channel that holds class numbers, but is a picture of mode RGB"):
        opened(masked)
    (masks / "4.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"4\.png must be a picture that Pillow can read"):
        opened(masked)


def test_what_is_asked_for_and_cannot_be(masked: Folders) -> None:
    for query, said in (("?ignore=none", "ignore must be the value"), ("?fit=squash", "fit must be stretch, pad or"),
                        ("?classes=0", "classes must be a number of classes")):
        with pytest.raises(InputError, match=said):
            opened(masked, query)
    few = opened(masked, "?classes=1")
    with pytest.raises(InputError, match="must hold numbers of 1 classes, but holds 1"):
        first(few)
    write_picture(masked[0] / "0.jpg", np.zeros((9, 10, 3), np.uint8))
    write_picture(masked[1] / "0.png", np.zeros((9, 10), np.uint8))
    with pytest.raises(InputError, match="must share one size, but there are 10×8, 10×9"):
        opened(masked)
    assert first(opened(masked, image_size=16))["input"].shape == (3, 16, 16)
    with pytest.raises(InputError, match="data must be masks:IMAGES"):
        open_source("masks:a,b,c", SourceContext())
    with pytest.raises(InputError, match="there is no folder"):
        open_source("masks:nowhere", SourceContext())


def test_masks_of_one_class_tell_nothing(masked: Folders) -> None:
    for path in masked[1].glob("*.png"):
        write_picture(path, np.zeros((8, 10), np.uint8))
    with pytest.raises(InputError, match="two classes or more, but every pixel that counts is 0"):
        opened(masked)
    assert opened(masked, "?classes=3").classes == 3  # type: ignore[attr-defined]
