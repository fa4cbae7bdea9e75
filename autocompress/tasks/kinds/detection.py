"""Detection: boxes with a class, which are decoded from what the network puts out as a part of the metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import AutocompressError, InputError
from autocompress.tasks.kinds.base import KindContext, KindFacts, named_measure
from autocompress.tasks.metrics.detection import boxes_of
from autocompress.tasks.metrics.measure import Outputs
from autocompress.tasks.metrics.selection import as_array
from autocompress.tasks.sources.base import TARGET
from autocompress.tasks.sources.boxes import BOX_NUMBERS
from autocompress.tensors.names import OUTPUT

Boxes = dict[str, np.ndarray]
KEYS = ("boxes", "scores", "labels")


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """The boxes of each picture, by a function of what `forward` returns.

    Args:
        decode: returns for each picture a mapping of boxes `(K, 4)` in pixels, scores `(K,)` and labels `(K,)`, or
            these three; suppression of overlapping boxes is its part.
        structure: what `forward` returns for some samples.
    """

    decode: Callable[[Any], Any]
    structure: Any

    def __call__(self, outputs: Outputs) -> list[Boxes]:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in outputs.items()}
        try:
            with torch.no_grad():
                detections = self.decode(restored(self.structure, tensors))
        except AutocompressError:
            raise
        except Exception as error:  # the user's code: anything can come
            raise InputError(f"decode must take what the network's forward returns, but raised {type(error).__name__}: "
                             f"{str(error)[:300]}") from error
        pictures = len(next(iter(outputs.values())))
        if not isinstance(detections, Sequence) or len(detections) != pictures:
            what = f"a sequence of {len(detections)}" if isinstance(detections, Sequence) else type(detections).__name__
            raise InputError(f"decode must return boxes for each of {pictures} pictures, but returned {what}")
        return [_boxes(each) for each in detections]


def _boxes(entry: Any) -> Boxes:
    """Boxes, scores and labels of one picture. InputError for anything else."""
    if isinstance(entry, tuple | list) and len(entry) == len(KEYS):
        entry = dict(zip(KEYS, entry, strict=True))
    if not isinstance(entry, Mapping) or not all(key in entry for key in KEYS):
        what = f"a mapping of {', '.join(map(str, entry))}" if isinstance(entry, Mapping) else type(entry).__name__
        raise InputError(f"decode must return boxes (K, 4), scores (K,) and labels (K,) for each picture, but returned "
                         f"{what}")
    arrays = {key: as_array(entry[key], key) for key in KEYS}
    count = len(arrays["scores"])
    if arrays["boxes"].shape != (count, 4) or arrays["labels"].shape != (count,):
        told = ", ".join(f"{key} {array.shape}" for key, array in arrays.items())
        raise InputError(f"decode must return boxes (K, 4), scores (K,) and labels (K,) for each picture, but returned "
                         f"{told}")
    return arrays


def restored(structure: Any, tensors: Mapping[str, Tensor], name: str = "") -> Any:
    """What `forward` returns, with other tensors of the names that `flat_outputs` gives to those of `structure`."""
    if structure is None:
        return None
    if isinstance(structure, Tensor):
        return tensors[name or OUTPUT]

    def inner(key: str) -> str:
        return f"{name}.{key}" if name else key

    if isinstance(structure, Mapping) and not dataclasses.is_dataclass(structure):
        return {key: restored(entry, tensors, inner(str(key))) for key, entry in structure.items()}
    if dataclasses.is_dataclass(structure):
        fields = [field.name for field in dataclasses.fields(structure)]
        return type(structure)(**{key: restored(getattr(structure, key), tensors, inner(key))  # type: ignore[misc]
                                  for key in fields})
    if hasattr(structure, "_fields"):
        return type(structure)(*(restored(entry, tensors, inner(key))
                                 for key, entry in zip(structure._fields, structure, strict=True)))
    return type(structure)(restored(entry, tensors, inner(f"{'' if name else 'output_'}{number}"))
                           for number, entry in enumerate(structure))


def true_boxes(batch: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Boxes and labels of each picture of a batch, and which boxes do not count."""
    there = [rows[rows[:, 4] >= 0] for rows in batch[TARGET]]
    return [{"boxes": rows[:, :4], "labels": rows[:, 4].long(), "ignored": rows[:, 5] > 0} for rows in there]


def detection(context: KindContext) -> KindFacts:
    """Mean average precision at an overlap of one half, and beside it that of COCO.

    Boxes are made by the user's function, else by the network's method `decode`, else are outputs called boxes, scores
    and labels. InputError where there is none of these, or what they make is no boxes.
    """
    targets = context.batch.get(TARGET)
    if targets is None or targets.dim() != 3 or targets.shape[2] != BOX_NUMBERS:
        raise InputError(f"{context.source.name}: detection is measured by boxes, which coco: and voc: sources have")
    decode = context.decode or getattr(context.model, "decode", None)
    predictions: Callable[[Outputs], Any]
    if callable(decode):
        predictions = Decoded(decode, context.returned)
    elif "boxes" in context.outputs and "scores" in context.outputs:
        predictions = boxes_of
    else:
        raise InputError(f"{context.source.name}: the network puts out {', '.join(context.outputs)}, which must be "
                         "made boxes: give the network a method decode(outputs), or a function by --decode file.py:"
                         "function, that returns boxes (K, 4) in pixels, scores (K,) and labels (K,) for each picture")
    predictions({name: tensor.numpy() for name, tensor in context.outputs.items()})
    return KindFacts([named_measure(name, predictions, targets=true_boxes) for name in ("map50", "map")])
