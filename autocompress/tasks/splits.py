"""The shape of data inside autocompress: tensors in three splits."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from autocompress.core.metric import Metric
from autocompress.core.warnings import Warned
from autocompress.errors import InputError
from autocompress.tasks.classification.calibration import confidences
from autocompress.tasks.classification.metric import ACCURACY
from autocompress.tasks.classification.outputs import DESCRIPTIONS, ClassOutputs, Meaning, as_scores, recognise
from autocompress.tasks.classification.sanity_checks import (
    ClassAnswers,
    original_doubts,
    quality,
    rarest,
    result_doubts,
)
from autocompress.tasks.classification.scores import scores
from autocompress.tasks.identity import callable_fingerprint
from autocompress.tasks.samples import Samples, content_of, is_large, take_rows
from autocompress.tasks.score import Answers, Score, consecutive_rows, gathered_rows
from autocompress.tasks.stratified import stratified_part
from autocompress.tasks.views import Augment, Shifts, View, augmented_by
from autocompress.tensors.likelihood import Likelihood
from autocompress.tensors.named import Inputs, the_tensor

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
STORED = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float32)
PIXELS, VALUES, TOKENS = "pixels", "values", "tokens"
# What stored numbers are: bytes to be divided by 255, values as they are, or indices of an embedding.
READINGS = (PIXELS, VALUES, TOKENS)
# The bytes of an augmented view up to which it is held: beyond, samples are shifted each time they are read.
VIEW_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Split:
    """Samples and what they should give.

    `inputs` (N, …): of classification pixels, values or tokens, of any real number type; of other tasks what the
    network reads, several by name too. A tensor, or other `Samples`, which are read by rows. `targets` (N, …): of
    classification int64 labels from 0.
    """

    inputs: Any
    targets: Tensor

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.targets)

    def take(self, indices: Tensor) -> Split:
        """The samples at `indices` `(M,)` int64, in that order."""
        return Split(take_rows(self.inputs, indices), self.targets[indices])


@dataclass(frozen=True, eq=False)
class TaskData:
    """A classification data set.

    Inputs stay as they are stored: `normalise` makes floats of a batch.

    Args:
        name: of the data, for headings and folders.
        train: samples and labels.
        validation: samples and labels, which the search sees.
        test: samples and labels, for final figures only.
        classes: number of classes.
        mean: one value for each channel, or one for all, subtracted after pixels were divided by 255; values are not
            divided, and tokens left as they are.
        std: one value for each channel, or one for all, by which is then divided.
        pad: pixels by which pictures are shifted at random when they are augmented.
        flip: whether they are mirrored at random too.
        augment: follows, for inputs of any kind: a batch (N, …) and a CPU generator → a batch of that shape and type.
            Its outcome must be settled by the generator, and must stay the same while a study lasts: the original's
            answers are kept. To travel to other processes it must be a module's function.
        reading: what the stored numbers are, one of `READINGS`; left out, bytes of rank 3 and more are pixels, int64
            are tokens, and all else, such as tables, values.
        class_names: in the order of the labels, where they are known.
        prepared: how pictures were brought to size, in words.
        files: the same as values, by which others are read like them (`artifact/inputs.py`).
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    pad: int = 0
    flip: bool = False
    augment: Augment | None = None
    reading: str | None = None
    class_names: tuple[str, ...] = ()
    prepared: str = ""
    files: Mapping[str, Any] = field(default_factory=dict)
    further: ClassVar[tuple[Metric, ...]] = ()
    keep: ClassVar[tuple[str, ...]] = ()

    @property
    def metric(self) -> Metric:
        """Accuracy."""
        return ACCURACY

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch: `(C, H, W)` for images."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """What a network is fed: int64 tokens, or float32."""
        return torch.int64 if self.kind == TOKENS else torch.float32

    @property
    def kind(self) -> str:
        """What the stored numbers are: `reading` where it is said."""
        inputs = self.train.inputs
        if self.reading is not None:
            return self.reading
        if inputs.dtype == torch.int64:
            return TOKENS
        return PIXELS if inputs.dtype == torch.uint8 and inputs.ndim > 2 else VALUES

    @property
    def is_plain(self) -> bool:
        """Whether nothing is subtracted and nothing divided by but the 255 of pixels."""
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    @property
    def described(self) -> str:
        """How stored inputs become what the network is fed, in words."""
        if self.kind == TOKENS:
            return "tokens as they are"
        texts = [*([self.prepared] if self.prepared else []), "divided by 255" if self.kind == PIXELS else "as stored"]
        return ", ".join([*texts, "not normalised" if self.is_plain else f"mean {self.mean}, std {self.std}"])

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of every sample and label, of the normalisation, and of the augmentation as far as that can be
        told by content. Of data that are too large to be read whole some samples count: see `Samples`."""
        augment = "" if self.augment is None else callable_fingerprint(self.augment) or "unknown"
        facts = (self.classes, self.mean, self.std, self.kind, self.pad, self.flip, augment)
        digest = hashlib.sha256(repr(facts).encode())
        for name in SPLITS:
            split: Split = getattr(self, name)
            for samples in (split.inputs, split.targets):
                digest.update(f"{name} {samples.dtype} {tuple(samples.shape)}".encode())
                for content in content_of(samples):
                    digest.update(content)
            if is_large(split.inputs):
                log.info("%s, %s split: the fingerprint is of shapes, labels and sampled contents, not of all %d "
                         "samples", self.name, name, len(split))
        return digest.hexdigest()[:16]

    @property
    def views_fingerprint(self) -> str | None:
        """What settles `train_view`, beside the seed. None where `augment` cannot be told by its content, so that no
        answer to an augmented view may be used again later."""
        is_fixed = self.augment is None or callable_fingerprint(self.augment) is not None
        return self.fingerprint if is_fixed else None

    def normalise(self, inputs: Tensor) -> Tensor:
        """A batch (N, …) as stored → float32 of the same shape, or int64 tokens: as the model is fed."""
        if self.kind == TOKENS:
            return inputs.long()
        pixels = self.kind == PIXELS and inputs.dtype == self.train.inputs.dtype
        values = inputs.float() / 255 if pixels else inputs.float()
        if self.is_plain:
            return values
        shape = (1, -1) + (1,) * (inputs.ndim - 2)
        mean = torch.tensor(self.mean, device=inputs.device).view(shape)
        std = torch.tensor(self.std, device=inputs.device).view(shape)
        return (values - mean) / std

    def samples(self, split: str) -> int:
        """Number of samples of a split."""
        return len(getattr(self, split))

    def rows(self, split: str, most: int) -> Iterator[slice]:
        """In pieces of `most`."""
        return consecutive_rows(self.samples(split), most)

    def part(self, split: str, samples: int) -> Tensor | None:
        """Each class in its share."""
        targets = getattr(self, split).targets
        return stratified_part(targets, samples) if samples < len(targets) else None

    def inputs(self, split: str, rows: slice | Tensor) -> Tensor:
        """Normalised samples of a split."""
        return self.normalise(getattr(self, split).inputs[rows])

    def likelihood(self, outputs: Inputs, ends_in_sigmoid: Collection[str]) -> Likelihood:
        """The distribution over classes that outputs `(N, classes)` stand for."""
        outputs = the_tensor(outputs)
        if outputs.dim() != 2 or outputs.shape[1] != self.classes:
            raise InputError(f"the network must have one output for each of the {self.classes} classes of "
                             f"{self.name}, but it has {outputs.shape[-1] if outputs.dim() > 1 else 1}")
        return ClassOutputs(recognise(outputs.float().numpy(), bool(ends_in_sigmoid)))

    def score(self, answers: Answers, split: str, likelihood: Likelihood) -> Score:
        """See `classification.scores`; the classes that are answered are kept beside the labels."""
        rows, answered = gathered_rows(answers)
        (outputs,) = answered.values()
        targets = getattr(self, split).targets[rows].numpy()
        meaning = _meaning(likelihood)
        return Score(scores(as_scores(outputs, meaning), targets),
                     ClassAnswers(targets, outputs.argmax(axis=1), self.classes, self.class_names,
                                  confidences(outputs, meaning)))

    def doubts(self, original: Score, claimed: tuple[str, float] | None) -> list[Warned]:
        """See `classification.sanity_checks`."""
        return original_doubts(original.answers, claimed, self.described)

    def losses(self, original: Score, result: Score) -> tuple[list[Warned], dict[str, Any]]:
        """See `classification.sanity_checks`; the facts tell of the rarest classes, of every class, and how far
        probabilities are from what they say."""
        before, after = original.answers, result.answers
        trained = np.bincount(self.train.targets.numpy(), minlength=self.classes).tolist()
        return result_doubts(before, after, trained), {"rarest": rarest(before, after, trained),
                                                      **quality(before, after)}

    def input_facts(self) -> dict[str, Any]:
        """How pixels or values are scaled."""
        return {"scale": "pixels / 255" if self.kind == PIXELS else "as given", "mean": list(self.mean),
                "std": list(self.std), **({"prepared": self.prepared} if self.prepared else {}),
                **({"files": dict(self.files)} if self.files else {})}

    def shipped_files(self) -> dict[str, bytes]:
        """None."""
        return {}

    def output_facts(self, likelihood: Likelihood, name: str = "output") -> dict[str, Any]:
        """What the scores mean, and of which classes they are."""
        classes = {"classes": list(self.class_names)} if self.class_names else {}
        return {"meaning": DESCRIPTIONS[_meaning(likelihood)], **classes}

    @property
    def has_targets(self) -> bool:
        """True: labels."""
        return True

    @property
    def train_targets(self) -> Tensor:
        """Labels of the training split (N,)."""
        return self.train.targets

    def view_targets(self, view: int, seed: int) -> Tensor:
        """The same of every view."""
        return self.train_targets

    @property
    def is_augmented(self) -> bool:
        """Whether pictures are moved or mirrored, or `augment` is given."""
        return bool(self.pad or self.flip or self.augment is not None)

    def train_view(self, view: int, seed: int) -> Any:
        """All training inputs as stored, augmented; each view number gives another, settled by `seed`. Where inputs
        are not in memory, or would take `VIEW_BYTES` once more, samples are augmented when they are read."""
        inputs, number = self.train.inputs, 1000 * seed + view
        generator = torch.Generator().manual_seed(number)
        if isinstance(inputs, Tensor) and (self.augment is not None or inputs.nbytes <= VIEW_BYTES):
            return self.augmented(inputs, generator)
        return View(inputs, self._shifts(inputs, generator), self.augment, number)

    def augmented(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """A batch (N, …), raw or normalised: images randomly shifted and mirrored, then what `augment` makes of it.

        The outcome is settled by the state of `generator`, a CPU generator. InputError when `augment` gives back
        something of another shape or type.
        """
        shifts = self._shifts(inputs, generator)
        moved = inputs if shifts is None else shifts.applied(inputs)
        return moved if self.augment is None else augmented_by(self.augment, moved, generator)

    def _shifts(self, inputs: Samples, generator: torch.Generator) -> Shifts | None:
        """Drawn for images (N, C, H, W); None for anything else, which is left alone."""
        if inputs.ndim != 4 or not (self.pad or self.flip):
            return None
        return Shifts.drawn(len(inputs), self.pad, self.flip, generator)


def _meaning(likelihood: Likelihood) -> Meaning:
    meaning: Meaning = getattr(likelihood, "meaning", "scores")
    return meaning


def phases(targets: Tensor, period: int, seed: int) -> Tensor:
    """A number from 0 to `period` - 1 for each sample, each class spread evenly over the numbers.

    Systematic sampling: shuffle, order by class, count round. The samples of one number are a
    stratified share of 1/`period`.
    """
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(targets[order], stable=True)]
    numbers = torch.empty_like(order)
    numbers[order] = torch.arange(len(order)) % period
    return numbers


def with_every_class_trained(numbers: Tensor, targets: Tensor, held_out: int) -> Tensor:
    """`numbers` of `phases`, those from `held_out` on leave the training split; a class that has none below it gets its
    least number lowered to 0, so that a class of one sample is trained."""
    classes, labels = torch.unique(targets, return_inverse=True)
    trained = torch.zeros(len(classes), dtype=torch.bool)
    trained[labels[numbers < held_out]] = True
    numbers = numbers.clone()
    for label in (~trained).nonzero()[:, 0].tolist():
        rows = (labels == label).nonzero()[:, 0]
        numbers[rows[numbers[rows].argmin()]] = 0
    return numbers


def complete(parts: Mapping[str, Split], seed: int, name: str = "data") -> dict[str, Split]:
    """All three splits out of those at hand; `train` must be among them.

    Alone, training data is split 80/10/10. Without validation data a tenth of the training data is
    held out; without test data one half of the validation data becomes the test. A class too rare to be in all of them
    is in training. What is split off is logged.
    """
    train, validation, test = (parts.get(split) for split in SPLITS)
    if train is None:
        raise InputError(f"data must have a training split, but only has {', '.join(parts) or 'nothing'}")
    for split, part in parts.items():
        check_lengths(part, f"{name}, {split} split")
    missing = [split for split in SPLITS if split not in parts]
    if validation is None:
        held_out = 8 if test is None else 9
        numbers = with_every_class_trained(phases(train.targets, 10, seed), train.targets, held_out)
        if test is None:
            test = train.take((numbers == 8).nonzero()[:, 0])
            validation = train.take((numbers == 9).nonzero()[:, 0])
            train = train.take((numbers < 8).nonzero()[:, 0])
        else:
            validation = train.take((numbers == 9).nonzero()[:, 0])
            train = train.take((numbers < 9).nonzero()[:, 0])
    elif test is None:
        numbers = phases(validation.targets, 2, seed)
        test = validation.take((numbers == 1).nonzero()[:, 0])
        validation = validation.take((numbers == 0).nonzero()[:, 0])
    assert test is not None
    if missing:
        log.info("%s: no %s split is given: %d training, %d validation and %d test samples after splitting", name,
                 " and no ".join(missing), len(train), len(validation), len(test))
    return {"train": train, "validation": validation, "test": test}


def check_lengths(split: Split, where: str) -> None:
    """InputError unless there is one label for each sample."""
    if len(split.inputs) != len(split.targets):
        raise InputError(f"{where}: needs one label for each sample, but has {len(split.inputs)} samples and "
                         f"{len(split.targets)} labels")
