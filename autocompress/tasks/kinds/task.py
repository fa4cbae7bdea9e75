"""The task of a kind: an `autocompress.Task` of a source, whose pictures are kept as bytes and normalised when read."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

from torch import Tensor

from autocompress.tasks.augmentation import Augmentation
from autocompress.tasks.batch_split import SplitName
from autocompress.tasks.batch_task import BatchTask
from autocompress.tasks.kinds.base import KindFacts
from autocompress.tasks.kinds.inputs import InputReader, grey, is_picture, one_channel
from autocompress.tasks.kinds.read_ahead import ReadAhead
from autocompress.tasks.picture_cache import DEFAULT_BYTES
from autocompress.tasks.sources.base import Source
from autocompress.tasks.splits import SPLITS
from autocompress.tensors.likelihood import Likelihood
from autocompress.tensors.named import Inputs
from autocompress.tensors.names import OUTPUT


class KindTask(BatchTask):
    """A task that is named by its kind.

    Args:
        source: samples, and what is known of their classes.
        reader: what the network reads of them.
        facts: what the kind says.
        metric: what is measured, the objective first; empty where that is how near files come to the original.
        cache_bytes: that samples may take where they are kept.
        augmentation: random changes of stored training inputs; those of the source where that is None.
    """

    def __init__(self, source: Source, reader: InputReader, facts: KindFacts, metric: Any,
                 cache_bytes: int = DEFAULT_BYTES, augmentation: Augmentation | None = None) -> None:
        train, validation, test = (ReadAhead(source.splits[split], f"{source.name}, {split} split") for split in SPLITS)
        super().__init__(train, validation, test, inputs=reader.stored, metric=metric or None, name=source.name,
                         outputs=dict.fromkeys(facts.classes, "classes"), cache_size=cache_bytes,
                         augment=source.augmentation if augmentation is None else augmentation)
        self._reader, self._classes, self._prepared = reader, facts.classes, source.prepared
        self._class_names, self._files, self._shipped = source.class_names, source.files, source.shipped
        stored = super().inputs("train", slice(0, 1))
        self._pixels = reader.are_pixels(stored) if isinstance(stored, Tensor) else \
            any(map(is_picture, stored.values()))

    def inputs(self, split: SplitName, rows: slice | Tensor) -> Inputs:
        """Samples as the network reads them."""
        return self.normalise(super().inputs(split, rows))

    def normalise(self, inputs: Any) -> Inputs:
        """Stored samples as the network reads them."""
        normalised: Inputs = self._reader.read(inputs)
        return normalised

    @cached_property
    def fingerprint(self) -> str:
        """That of the batches and metrics, and of how inputs are made of them."""
        return self._with_reader(super().fingerprint)

    @property
    def views_fingerprint(self) -> str | None:
        """That of the batches, and of how inputs are made of them."""
        return self._with_reader(super().views_fingerprint or "")

    def _with_reader(self, fingerprint: str) -> str:
        reader = self._reader
        facts = f"{fingerprint} {reader.names} {reader.alone} {reader.mean} {reader.std} {reader.form.__name__}"
        facts += "" if reader.reading is None else f" {reader.reading}"
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    @property
    def described(self) -> str:
        """How files become what the network reads."""
        texts = [self._prepared] if self._prepared else []
        texts += ["divided by 255"] if self._pixels else []
        texts += [] if self._reader.is_plain else [f"mean {self._reader.mean}, std {self._reader.std}"]
        return ", ".join(texts) or super().described

    def input_facts(self) -> dict[str, Any]:
        """How pictures are brought to size and normalised, or how else files become inputs."""
        reader, files = self._reader, dict(self._files)
        told: dict[str, Any] = {"prepared": self._prepared} if self._prepared else {}
        if self._pixels or not reader.is_plain:
            mean, std = reader.mean, reader.std
            if reader.form is grey:  # the mean of three normalised channels is one weighted sum, normalised once
                mean, std, files["grey"] = one_channel(mean, std)
            told |= {"scale": "pixels / 255" if self._pixels else "as given", "mean": list(mean), "std": list(std)}
        return {**super().input_facts(), **told, **({"files": files} if files else {})}

    def shipped_files(self) -> dict[str, bytes]:
        """What turns a user's files into inputs, such as a tokenizer."""
        return dict(self._shipped)

    def output_facts(self, likelihood: Likelihood, name: str = OUTPUT) -> dict[str, Any]:
        """What outputs mean, and of scores the names of their classes."""
        classes = {"classes": list(self._class_names)} if name in self._classes and self._class_names else {}
        return {**super().output_facts(likelihood, name), **classes}
