"""Data sets known by name and folders of pictures as a source, for tasks other than classification."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from autocompress.tasks.augmentation import Augmentation
from autocompress.tasks.sources.base import INPUT, TARGET, Sample, Source
from autocompress.tasks.splits import PIXELS, SPLITS, TaskData

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ClassifiedRows:
    """Samples of one split: bytes of pictures as they are stored, anything else as the network reads it."""

    data: TaskData
    split: str

    def __len__(self) -> int:
        return self.data.samples(self.split)

    def __getitem__(self, index: int) -> Sample:
        part = getattr(self.data, self.split)
        stored = part.inputs[int(index)]
        inputs = stored if holds_pictures(self.data) else self.data.normalise(stored[None])[0]
        return {INPUT: inputs, TARGET: part.targets[int(index)]}


def holds_pictures(data: TaskData) -> bool:
    """Whether samples are bytes of pictures, whose normalisation a source leaves to the task."""
    return data.kind == PIXELS and data.train.inputs.dtype == torch.uint8 and len(data.input_shape) == 3


def classified_source(data: TaskData) -> Source:
    """The samples of a classification data set, with its augmentation but for a function of the user's."""
    pictures = holds_pictures(data)
    if data.augment is not None:
        log.warning("%s: `augment` of the data is not called with this task and metric", data.name)
    return Source(data.name, {split: ClassifiedRows(data, split) for split in SPLITS}, classes=data.classes,
                  class_names=data.class_names, mean=data.mean if pictures else (0.0,),
                  std=data.std if pictures else (1.0,), prepared=data.described, files=data.files,
                  augmentation=Augmentation(pad=data.pad, flip=data.flip))
