"""The source `voc:`, boxes in a folder as of Pascal VOC: http://host.robots.ox.ac.uk/pascal/VOC/."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from autocompress.errors import InputError
from autocompress.tasks.sources.base import Source, SourceContext, spelled_split
from autocompress.tasks.sources.boxes import Annotated, as_boxes, boxed_source, ordered_classes
from autocompress.tasks.sources.folders import require_folder
from autocompress.tasks.sources.specs import SourceSpec

# Bytes of the longest file of annotations that is read.
MAX_XML = 2**24
_EDGES = ("xmin", "ymin", "xmax", "ymax")
Boxes = list[tuple[str, list[float], bool]]


def open_voc(spec: SourceSpec, context: SourceContext) -> Source:
    """Pictures with boxes: `Annotations/*.xml`, pictures in `JPEGImages`, perhaps lists of the splits in
    `ImageSets/Main/{train,val,test}.txt`.

    Edges count from 1, as in VOC: 1 is taken from the left and upper ones. Objects called difficult do not count.

    Options: `fit`, as of `fit_for`; `classes`, their names in the order of the network's outputs, by default
    alphabetical.

    Raises:
        InputError: where a file is not as it must be, a picture is missing, or a box is outside.
    """
    (folder,) = spec.paths
    for name in ("Annotations", "JPEGImages"):
        require_folder(folder / name)
    splits = _splits(folder)
    read = {stem: _annotation(folder, stem) for stems in splits.values() for stem in stems}
    labels = sorted({label for _, boxes in read.values() for label, _, _ in boxes})
    class_names = ordered_classes(labels, spec, str(folder))
    parts = {split: [Annotated(read[stem][0], as_boxes([(*edges, class_names.index(label), difficult)
                                                        for label, edges, difficult in read[stem][1]]))
                     for stem in stems] for split, stems in splits.items()}
    return boxed_source(parts, class_names, spec, context, str(folder))


def _splits(folder: Path) -> dict[str, list[str]]:
    """The stems of each split: of the lists, where there is one of training, else all annotations."""
    lists = {spelled_split(path.stem): path for path in sorted((folder / "ImageSets" / "Main").glob("*.txt"))}
    lists.pop(None, None)
    if "train" not in lists:
        stems = sorted(path.stem for path in (folder / "Annotations").glob("*.xml"))
        if not stems:
            raise InputError(f"{folder / 'Annotations'} must hold a file .xml for each picture, but holds none")
        return {"train": stems}
    return {split: [line.split()[0] for line in path.read_text("utf-8").splitlines() if line.strip()]
            for split, path in lists.items() if split is not None}


def _annotation(folder: Path, stem: str) -> tuple[Path, Boxes]:
    """The picture that a file of annotations is of, and its boxes."""
    path = folder / "Annotations" / f"{stem}.xml"
    try:
        if path.stat().st_size > MAX_XML:
            raise InputError(f"{path} must hold the boxes of one picture, but has {path.stat().st_size:,} bytes")
        root = ElementTree.fromstring(path.read_bytes())
        boxes = [(item.findtext("name", "").strip(), [float(item.findtext(f"bndbox/{edge}", "")) for edge in _EDGES],
                  item.findtext("difficult", "0").strip() == "1") for item in root.iter("object")]
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise InputError(f"{path} must hold objects with a name and a bndbox of four numbers, as of VOC, but: "
                         f"{error}") from None
    if not all(name for name, _, _ in boxes):
        raise InputError(f"{path}: every object must have the name of its class, but one has none")
    named = root.findtext("filename", "").strip()
    images = folder / "JPEGImages"
    places = [images / named, *(images / f"{stem}{suffix}" for suffix in (".jpg", ".jpeg", ".png"))]
    picture = next((place for place in places if place.is_file()), None)
    if picture is None:
        raise InputError(f"{path} must have its picture in {images}, but there is neither {named or 'a name'} nor "
                         f"{stem}.jpg")
    return picture, [(name, [left - 1, upper - 1, right, lower], hard)
                     for name, (left, upper, right, lower), hard in boxes]
