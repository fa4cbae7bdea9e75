"""The source `coco:`, boxes in the JSON of COCO: https://cocodataset.org/#format-data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from autocompress.errors import InputError
from autocompress.tasks.sources.base import Source, SourceContext, spelled_split
from autocompress.tasks.sources.boxes import Annotated, as_boxes, boxed_source, ordered_classes
from autocompress.tasks.sources.folders import require_folder, visible_folders
from autocompress.tasks.sources.specs import SourceSpec


class _Image(msgspec.Struct):
    id: int | str
    file_name: str
    # Not of COCO; what some tools add.
    split: str | None = None


class _Annotation(msgspec.Struct):
    image_id: int | str
    category_id: int
    # Left, upper edge, width, height in pixels.
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


class _Category(msgspec.Struct):
    id: int
    name: str


class _Document(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def open_coco(spec: SourceSpec, context: SourceContext) -> Source:
    """Pictures with boxes: one file of annotations, or a folder with one for each split.

    A file in a folder is for the split that its name ends in, such as `instances_val2017.json`; in one file an image
    may name its `split`. Pictures are in the folder IMAGES, or below it in a folder called as the split.

    Options: `fit`, as of `fit_for`; `classes`, their names in the order of the network's outputs, by default by id.

    Raises:
        InputError: where a file is not as it must be, a picture or a category is missing, or a box is outside.
    """
    annotations, images = spec.paths
    require_folder(images)
    documents = {path: _document(path) for path in _files(annotations)}
    categories = {category.id: category.name for document in documents.values() for category in document.categories}
    class_names = ordered_classes([categories[number] for number in sorted(categories)], spec, str(annotations))
    folders = {**{spelled_split(folder.name): folder for folder in visible_folders(images)}, None: images}
    parts: dict[str, list[Annotated]] = {}
    for path, document in documents.items():
        numbers = {category.id: class_names.index(category.name) for category in document.categories}
        rows = _rows(document, numbers, path)
        for image in document.images:
            split = _split(image, path, len(documents) > 1)
            parts.setdefault(split, []).append(
                Annotated(_picture(folders, image.file_name, split, path), as_boxes(rows.get(image.id, []))))
    return boxed_source(parts, class_names, spec, context, str(annotations))


def _files(annotations: Path) -> list[Path]:
    if annotations.is_file():
        return [annotations]
    by_split: dict[str, Path] = {}
    for path in sorted(annotations.glob("*.json")) if annotations.is_dir() else ():
        split = _split_of(path)
        if split is not None and split in by_split:
            raise InputError(f"{annotations} must hold one file for each split, but {by_split[split].name} and "
                             f"{path.name} both are for {split}: name the file itself")
        if split is not None:
            by_split[split] = path
    if "train" not in by_split:
        raise InputError(f"data: coco: needs a file of annotations, or a folder with files such as train.json and "
                         f"val.json, but got {str(annotations)!r}")
    return list(by_split.values())


def _document(path: Path) -> _Document:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Document)
    except (msgspec.DecodeError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} must be JSON with images, annotations that have a bbox, and categories, as of COCO, "
                         f"but: {error}") from None


def _rows(document: _Document, numbers: dict[int, int], path: Path) -> dict[int | str, list[Sequence[float]]]:
    """Boxes by the id of their image. InputError for one of an image or a category that there is not."""
    image_ids = {image.id for image in document.images}
    if len(image_ids) < len(document.images):
        raise InputError(f"{path}: every image must have an id of its own, but {len(document.images)} images have "
                         f"{len(image_ids)} ids")
    rows: dict[int | str, list[Sequence[float]]] = defaultdict(list)
    for annotation in document.annotations:
        if annotation.image_id not in image_ids or annotation.category_id not in numbers:
            what, value = ("image_id", annotation.image_id) if annotation.image_id not in image_ids else (
                "category_id", annotation.category_id)
            raise InputError(f"{path}: every annotation must have the id of an image and of a category, but one has "
                             f"{what} {value!r}, which there is not")
        left, upper, width, height = annotation.bbox
        rows[annotation.image_id].append((left, upper, left + width, upper + height, numbers[annotation.category_id],
                                          annotation.iscrowd))
    return rows


def _split_of(path: Path) -> str | None:
    """The split that the name of a file of annotations ends in."""
    return spelled_split(path.stem.replace("-", "_").rpartition("_")[2])


def _split(image: _Image, path: Path, by_file: bool) -> str:
    if by_file:
        return _split_of(path) or "train"
    if image.split is None:
        return "train"
    split = spelled_split(image.split)
    if split is None:
        raise InputError(f"{path}: the split of an image must be train, validation or test, but that of "
                         f"{image.file_name} is {image.split!r}")
    return split


def _picture(folders: Mapping[str | None, Path], name: str, split: str, path: Path) -> Path:
    """The file of a picture: in the folder of pictures (under None), or below it in that of its split."""
    file = next((folders[key] / name for key in (None, split) if key in folders and (folders[key] / name).is_file()),
                None)
    if file is None:
        raise InputError(f"{path} names the picture {name!r}, which must be in {folders[None]}, but is not")
    return file
