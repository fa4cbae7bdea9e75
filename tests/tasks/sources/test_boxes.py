"""Pictures with boxes, as of COCO and of VOC."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autocompress.errors import InputError
from autocompress.tasks.preparation import Preparation
from autocompress.tasks.sources.base import Source, SourceContext
from autocompress.tasks.sources.opened import open_source

Coco = tuple[Path, Path]


def boxes_of(source: Source) -> list[list[list[float]]]:
    """The boxes of every picture, by how many, then where."""
    targets = [samples[i]["target"] for samples in source.splits.values() for i in range(len(samples))]
    return sorted(target[target[:, 4] >= 0].tolist() for target in targets)


def test_boxes_of_coco(coco: Coco) -> None:
    source = open_source(f"coco:{coco[0]},{coco[1]}", SourceContext())
    assert source.class_names == ("plate", "cell") and source.classes == 2
    sample = source.splits["train"][0]
    assert sample["input"].shape == (3, 10, 20) and sample["input"].dtype == torch.uint8
    assert sample["target"].shape == (2, 6) and sample["target"].dtype == torch.float32
    cell, plate = [2, 1, 6, 6, 1, 0], [10, 5, 20, 10, 0]
    assert boxes_of(source) == sorted([[cell]] * 6 + [[cell, [*plate, 0]]] * 4 + [[cell, [*plate, 1]], [[*plate, 0]]])
    order = open_source(f"coco:{coco[0]},{coco[1]}?classes=background,cell,plate", SourceContext())
    assert {row[4] for boxes in boxes_of(order) for row in boxes} == {1, 2} and order.classes == 3


@pytest.mark.parametrize(("query", "cell"), [
    ("", [4, 4, 12, 24]), ("?fit=pad", [4, 12, 12, 22]), ("?fit=crop", [0, 4, 4, 24])])
def test_boxes_follow_their_pictures(coco: Coco, query: str, cell: list[float]) -> None:
    context = SourceContext(preparation=Preparation(40))
    source = open_source(f"coco:{coco[0]},{coco[1]}{query}", context)
    assert source.splits["train"][0]["input"].shape == (3, 40, 40)
    assert [*cell, 1.0, 0.0] in [row for boxes in boxes_of(source) for row in boxes]


def test_splits_of_coco_by_file_and_by_image(coco: Coco, tmp_path: Path) -> None:
    whole = json.loads(coco[0].read_text())
    (tmp_path / "files").mkdir()
    for split, numbers in (("train2017", range(8)), ("val2017", range(8, 12))):
        images = [image for image in whole["images"] if image["id"] - 100 in numbers]
        ids = {image["id"] for image in images}
        part = whole | {"images": images, "annotations": [a for a in whole["annotations"] if a["image_id"] in ids]}
        (tmp_path / "files" / f"instances_{split}.json").write_text(json.dumps(part))
        (coco[1] / split).mkdir()
        for image in images:
            (coco[1] / image["file_name"]).rename(coco[1] / split / image["file_name"])
    source = open_source(f"coco:{tmp_path}/files,{coco[1]}", SourceContext())
    assert [len(samples) for samples in source.splits.values()] == [8, 2, 2]
    for image in whole["images"]:
        image["split"] = "train" if image["id"] < 108 else "val" if image["id"] < 110 else "test"
        image["file_name"] = f"{'train' if image['id'] < 108 else 'val'}2017/{image['file_name']}"
    coco[0].write_text(json.dumps(whole))
    assert [len(s) for s in open_source(f"coco:{coco[0]},{coco[1]}", SourceContext()).splits.values()] == [8, 2, 2]


def test_boxes_of_voc(voc: Path) -> None:
    source = open_source(f"voc:{voc}", SourceContext())
    assert source.class_names == ("cat", "dog")
    assert [len(samples) for samples in source.splits.values()] == [8, 2, 2]
    box = [0, 0, 5, 10]
    assert boxes_of(source) == [[[*box, 0, 0]]] * 5 + [[[*box, 0, 1]]] + [[[*box, 1, 0]]] * 6
    (voc / "ImageSets" / "Main" / "train.txt").unlink()
    assert [len(s) for s in open_source(f"voc:{voc}", SourceContext()).splits.values()] == [10, 1, 1]


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Coco], None]:
    def changed(coco: Coco) -> None:
        document = json.loads(coco[0].read_text())
        change(document)
        coco[0].write_text(json.dumps(document))
    return changed


@pytest.mark.parametrize(("spoil", "said"), [
    (edit(lambda d: d["annotations"][0].update(bbox=[15, 1, 8, 5])), r"must lie inside the picture of 20×10 pixels, "
     r"but one is from \(15, 1\) to \(23, 6\)"),
    (edit(lambda d: d["annotations"][0].update(bbox=[5, 1, -3, 5])), "must lie inside"),
    (edit(lambda d: d["annotations"][0].update(image_id=5)), "one has image_id 5, which there is not"),
    (edit(lambda d: d["annotations"][0].update(category_id=5)), "one has category_id 5, which there is not"),
    (edit(lambda d: d["images"][0].update(id=101)), "12 images have 11 ids"),
    (edit(lambda d: d["images"][0].update(file_name="none.png")), "names the picture 'none.png', which must be in"),
    (edit(lambda d: d["images"][0].update(split="fold1")), "split of an image must be train, validation or test"),
    (edit(lambda d: d.pop("categories")), "must be JSON with images, annotations that have a bbox, and categories"),
    (edit(lambda d: d.update(annotations=[])), "marks none on 12 pictures"),
    (lambda coco: coco[0].write_text("{"), "must be JSON with images"),
    (lambda coco: coco[0].unlink(), "needs a file of annotations, or a folder"),
    (lambda coco: (coco[1] / "0.png").write_bytes(b"no picture"), r"0\.png must be a picture that Pillow can read"),
])
def test_annotations_of_coco_that_cannot_be(coco: Coco, spoil: Callable[[Coco], Any], said: str) -> None:
    spoil(coco)
    with pytest.raises(InputError, match=said):
        open_source(f"coco:{coco[0]},{coco[1]}", SourceContext())


@pytest.mark.parametrize(("old", "new", "said"), [
    ("<xmax>5", "<xmax>50", "must lie inside the picture of 20×10 pixels"),
    ("<xmax>5", "<xmax>wide", "must hold objects with a name and a bndbox of four numbers"),
    ("<name>dog", "<name>", "every object must have the name of its class"),
    ("</annotation>", "", "must hold objects with a name and a bndbox"),
    ("<filename>0.png", "<filename>zero.png", ""),
])
def test_annotations_of_voc_that_cannot_be(voc: Path, old: str, new: str, said: str) -> None:
    path = voc / "Annotations" / "0.xml"
    path.write_text(path.read_text().replace(old, new))
    if not said:  # a wrong name of the picture is made up for by that of the file
        open_source(f"voc:{voc}", SourceContext())
        (voc / "JPEGImages" / "0.png").unlink()
        said = "must have its picture in"
    with pytest.raises(InputError, match=said):
        open_source(f"voc:{voc}", SourceContext())


def test_classes_must_name_all(voc: Path, coco: Coco) -> None:
    with pytest.raises(InputError, match="'dog' is not among cat, horse"):
        open_source(f"voc:{voc}?classes=cat,horse", SourceContext())
    with pytest.raises(InputError, match="'cat' is named twice"):
        open_source(f"voc:{voc}?classes=cat,dog,cat", SourceContext())
    with pytest.raises(InputError, match="data must be coco:ANNOTATIONS,IMAGES"):
        open_source(f"coco:{coco[0]}", SourceContext())
    with pytest.raises(InputError, match="there is no folder"):
        open_source(f"voc:{voc}/none", SourceContext())
