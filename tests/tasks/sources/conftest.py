"""Small data of every kind of source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from source_files import write_picture, write_wav


@pytest.fixture
def masked(tmp_path: Path) -> tuple[Path, Path]:
    """Twelve pictures of 10×8 pixels whose left third is of class 1 and whose last row does not count."""
    rng = np.random.default_rng(0)
    mask = np.zeros((8, 10), np.uint8)
    mask[:, :3], mask[-1] = 1, 255
    for number in range(12):
        write_picture(tmp_path / "images" / f"{number}.jpg", rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
        write_picture(tmp_path / "masks" / f"{number}.png", mask)
    return tmp_path / "images", tmp_path / "masks"


@pytest.fixture
def coco(tmp_path: Path) -> tuple[Path, Path]:
    """Twelve pictures of 20×10 pixels, with one box or two on all but the last; category ids with a gap."""
    images, annotations = [], []
    for number in range(12):
        write_picture(tmp_path / "pictures" / f"{number}.png", np.zeros((10, 20, 3), np.uint8))
        images.append({"id": 100 + number, "file_name": f"{number}.png", "width": 20, "height": 10})
        if number < 11:
            annotations.append({"id": number, "image_id": 100 + number, "category_id": 7, "bbox": [2, 1, 4, 5],
                                "area": 20, "iscrowd": 0})
        if number % 2:
            annotations.append({"id": 50 + number, "image_id": 100 + number, "category_id": 3,
                                "bbox": [10, 5, 10, 5], "iscrowd": int(number == 1)})
    document = {"info": {}, "images": images, "annotations": annotations,
                "categories": [{"id": 7, "name": "cell"}, {"id": 3, "name": "plate"}]}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(document))
    return path, tmp_path / "pictures"


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Twelve pictures with one box, of which two are for testing; boxes are difficult on one of them."""
    folder = tmp_path / "voc"
    (folder / "Annotations").mkdir(parents=True)
    for number in range(12):
        write_picture(folder / "JPEGImages" / f"{number}.png", np.zeros((10, 20, 3), np.uint8))
        name = "cat" if number % 2 else "dog"
        (folder / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.png</filename><object><name>{name}</name>"
            f"<difficult>{int(number == 3)}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax>"
            "<ymax>10</ymax></bndbox></object></annotation>")
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"{number}\n" for number in range(8)))
    (lists / "val.txt").write_text("8\n9\n")
    (lists / "test.txt").write_text("10\n11\n")
    return folder


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Twelve recordings of two classes at 8 kHz, of 80 to 91 samples, in three formats."""
    for number in range(12):
        tone = np.sin(np.arange(80 + number) * (0.1 if number % 2 else 0.5))
        values = (tone * 32767).astype(np.int16) if number < 6 else tone.astype(np.float32) if number < 9 else (
            np.stack([tone * 127 + 128] * 2, 1).round().astype(np.uint8))
        write_wav(tmp_path / "audio" / ("low" if number % 2 else "high") / f"{number}.wav", values)
    return tmp_path / "audio"
