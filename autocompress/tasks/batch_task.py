"""The task of any network: batches as users have them, their metric and their loss. It is `autocompress.Task`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.core.metric import Metric, Reference
from autocompress.core.warnings import Warned
from autocompress.errors import InputError
from autocompress.quantities import parse_bytes
from autocompress.tasks.augmentation import Augmentation, augmentation_of
from autocompress.tasks.batch_inputs import chosen_inputs, getter_of, require_alike, require_usable, trained_on
from autocompress.tasks.batch_likelihood import MASKS, MEANINGS, Loss, Meaning, OwnLoss, Reading, require_gradient
from autocompress.tasks.batch_scoring import Original, scored
from autocompress.tasks.batch_split import BatchSplit, GatheredBatches, SplitName, completed, named_rows
from autocompress.tasks.batches import Batches, GetInputs
from autocompress.tasks.changes_along import ChangesAlong, changes_along
from autocompress.tasks.classification.outputs import DESCRIPTIONS
from autocompress.tasks.identity import callable_fingerprint
from autocompress.tasks.label_free import NOTES, label_free, label_free_metric
from autocompress.tasks.metrics.borders import with_borders
from autocompress.tasks.metrics.class_outputs import class_outputs
from autocompress.tasks.metrics.measure import Measure
from autocompress.tasks.metrics.table import measures
from autocompress.tasks.original_outputs import KNOWN_SAMPLES, outputs_by_row, outputs_in_pieces, variances_of
from autocompress.tasks.picture_cache import DEFAULT_BYTES
from autocompress.tasks.recording import RecordingLimit, drawn_again, recorded
from autocompress.tasks.score import Answers, Score
from autocompress.tasks.views import Changes, drawn_changes
from autocompress.tensors.likelihood import Likelihood
from autocompress.tensors.named import Inputs, by_name

log = logging.getLogger(__name__)

EVALUATED: tuple[SplitName, ...] = ("validation", "test")
# Units of quality, and standard errors, that a file may lose before it is called so.
FAR_BELOW, ERRORS = 0.05, 3.0
# Samples of which a user's loss is tried once.
TRIED_SAMPLES = 32


class BatchTask:
    """What a network is for: batches, the metric that an exported file is scored by, and, where labels are trained
    towards, the loss.

    Batches are read when the task is made, those of the training split twice where random augmentations make others of
    them: arrays with a row for each sample are then kept by rows, in memory
    while they are small, else in the user's cache folder, and the rest of each batch as it came.

    Args:
        train: a DataLoader, a Dataset of samples, arrays with a row for each sample (one, or a tuple, dict or dataclass
            of them), or any iterable of batches. Loaders that shuffle are read in order.
        validation: the same; left out, a tenth of the training samples.
        test: the same; left out, another tenth of them, or half of the validation samples.
        inputs: what the network reads of a batch: a function of the batch that returns a tensor `(N, …)`, or tensors by
            the names of the arguments of `forward`; or keys of batches. Left out, what `forward` names among the
            entries of a dict or dataclass, else the first item of a batch.
        metric: a name, a torchmetrics.Metric, a function of outputs and batch, or what `autocompress.metric` makes of
            one; of a list the first is searched for, and the others are reported. Left out, how near files come to the
            original: no labels are needed.
        loss: a function of the outputs, tensors by name, and a batch that returns one number; the training mixes it in.
            Left out, files are trained towards the original's outputs alone.
        keep: patterns of names of modules, such as `head.*`, that stay whole and in float.
        outputs: what outputs are, by name: `classes` (scores on axis 1), `classes last` or `numbers`. Left out,
            what the metric says; what is neither of them and has no rows of probabilities is numbers.
        weights: how much an output counts in the training beside the others, by name; left out, 1.
        name: of the data, for headings and folders.
        cache_size: bytes that all splits may take where they are kept, such as `40GB`.
        augment: random changes of training inputs, such as `flip,pad=4` of pictures or `shift=1600,gain=6` of sounds:
            see `Augmentation`. Masks and other maps change along. The loss is mixed in where batches hold nothing but
            these and labels `(N,)` beside inputs; else only every second pass is changed, towards the original alone.

    Raises:
        InputError: where batches, metric or loss cannot be used.
    """

    def __init__(self, train: Any, validation: Any = None, test: Any = None, *,
                 inputs: GetInputs | str | Sequence[str] | None = None, metric: Any = None, loss: Loss | None = None,
                 keep: str | Sequence[str] = (), outputs: Mapping[str, Meaning] | None = None,
                 weights: Mapping[str, float] | None = None, name: str = "data",
                 cache_size: int | str = DEFAULT_BYTES, augment: str | Mapping[str, Any] | Augmentation | None = None
                 ) -> None:
        self.name = name
        self.keep: tuple[str, ...] = (keep,) if isinstance(keep, str) else tuple(keep)
        self._given_measures: tuple[Measure, ...] = () if metric is None else measures(metric)
        self._label_free: Measure | None = None
        self._loss, self._meanings, self._weights = loss, dict(outputs or {}), dict(weights or {})
        self._augmentation = augmentation_of(augment)
        _check_arguments(loss, self._meanings, self._weights)
        self._get_inputs = get_inputs = getter_of(inputs)
        split_batches = {"train": train, "validation": validation, "test": test}
        limit = RecordingLimit(parse_bytes(cache_size, "cache_size"))
        batches_of_split: dict[str, Batches] = {}
        for split, batches in split_batches.items():
            if batches is not None:
                first = batches_of_split["train"].structure if batches_of_split else None
                batches_of_split[split] = recorded(batches, split, get_inputs, first, limit)
        self._splits = completed(batches_of_split, name)
        self._every_trained = self._splits["train"]
        self._train = batches_of_split["train"]
        again = drawn_again(train, self._train, get_inputs, limit)
        self._drawn_again = None if again is None else self._every_trained.among(again)
        batches_of_split |= {} if again is None else {"again": again}
        self._content = " ".join(f"{split} {batches.fingerprint}" for split, batches in batches_of_split.items())
        whole = self._train.structure.whole
        if loss is not None and whole:
            raise InputError(f"{name}: with a loss, samples of batches are mixed anew, but none can be taken out of "
                             f"{whole}: give arrays with a row, or lists with an entry, for each sample")
        self._names: dict[str, str] | None = None
        self._original: dict[SplitName, Original] = {}
        # The measures, with what the original's outputs settle of them.
        self._scored_by: tuple[Measure, ...] = ()
        self._compared_with = ""

    # -- the network -------------------------------------------------------------------------------------

    def read_by(self, model: nn.Module) -> None:
        """Settle which inputs of the batches `forward` reads. Called before anything else is asked for.

        Args:
            model: the network.

        Raises:
            InputError: where it needs what batches do not have, or they hold what is not finite, or a mask of zeros.
        """
        for settled in ("_column_of", "_along"):
            self.__dict__.pop(settled, None)
        self._names = chosen_inputs(model, self._columns, self._get_inputs)
        self._splits["train"] = trained_on(self._every_trained, self._names, self.name)
        for split, batches in self._splits.items():
            require_alike(batches, self._splits["train"], self._names, split, model)
            require_usable(batches, self._names, split)
        self._drawn_changes(0)
        if self._augmentation:
            left_out = "" if self._loss_follows else (", in every second pass, in which the loss is left out: batches "
                                                      "hold more than labels (N,) and maps of pictures beside inputs")
            log.info("%s: inputs of training are %s%s", self.name, self._augmentation.described, left_out)

    def compare_with(self, model: nn.Module, fingerprint: str) -> None:
        """Settle what needs the original's outputs: the metric where none is given, and whether the loss can be used.

        Args:
            model: the original, which takes and gives named tensors where there are several.
            fingerprint: of the original: it is run once.

        Raises:
            InputError: where outputs do not fit metric or loss.
        """
        if self._compared_with == fingerprint:
            return
        if self._loss is not None:
            rows = torch.arange(min(TRIED_SAMPLES, self.samples("train")))
            with torch.no_grad():
                outputs = by_name(model(self.inputs("train", rows)))
            require_gradient(self._loss, outputs, self._splits["train"].gather(rows))
        if not self._given_measures:
            self._label_free = label_free(self._meanings,
                                          variances_of(model, self.inputs("train", slice(0, KNOWN_SAMPLES))))
        if any(measure.needs_original for measure in self._measures):
            for split in EVALUATED:
                self._original[split] = outputs_by_row(model, self._splits[split], partial(self.inputs, split),
                                                       self._masks)
        spread = torch.linspace(0, self.samples("train") - 1, min(KNOWN_SAMPLES, self.samples("train"))).long()
        self._scored_by = with_borders(self._measures, outputs_in_pieces(model, partial(self.inputs, "train"), spread))
        self._compared_with = fingerprint

    @property
    def _measures(self) -> tuple[Measure, ...]:
        return self._given_measures if self._label_free is None else (self._label_free,)

    @property
    def _columns(self) -> list[str]:
        return self._splits["train"].columns

    @cached_property
    def _column_of(self) -> Mapping[str, str]:
        """The column of each input; before a network is known, the first that may be one."""
        return {"": self._columns[0]} if self._names is None else self._names

    @property
    def _masks(self) -> dict[str, tuple[int, ...]]:
        """Shapes `(length,)` of masks among the inputs."""
        shapes = {name: tuple(self._splits["train"].column(column).shape[1:])
                  for name, column in (self._names or {}).items() if name in MASKS}
        return {name: shape for name, shape in shapes.items() if len(shape) == 1}

    # -- the protocol of a task --------------------------------------------------------------------------

    @property
    def metric(self) -> Metric:
        """The first of the metrics."""
        return self._given_measures[0].metric if self._given_measures else label_free_metric(self._meanings)

    @property
    def further(self) -> tuple[Metric, ...]:
        """The others."""
        return tuple(measure.metric for measure in self._given_measures[1:])

    @property
    def has_targets(self) -> bool:
        """Whether there is a loss."""
        return self._loss is not None

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of all batches, and of metrics and loss as far as they can be told by their content."""
        functions = [callable_fingerprint(each) or "unknown" for each in (*self._given_measures, self._loss)]
        facts = f"{self._content} {functions} {self.metric} {self._meanings} {self._weights} {self.keep}"
        facts += f" {self._augmentation}" if self._augmentation else ""
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    @property
    def views_fingerprint(self) -> str | None:
        """That of the batches and their inputs, and of what is changed about these."""
        facts = f"{self._content} {self._column_of}"
        facts += f" {self._augmentation} {self._loss_follows}" if self._augmentation else ""
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    @property
    def described(self) -> str:
        """Inputs are not changed."""
        return "as the data give them"

    def samples(self, split: SplitName) -> int:
        """Number of samples of a split."""
        return self._splits[split].samples

    def rows(self, split: SplitName, most: int) -> Iterator[slice]:
        """Ranges of at most `most` rows, none of two batches."""
        return self._splits[split].pieces(most)

    def part(self, split: SplitName, samples: int) -> Tensor | None:
        """Whole batches, drawn at random."""
        return self._splits[split].part(samples)

    def inputs(self, split: SplitName, rows: slice | Tensor) -> Inputs:
        """Samples as the network reads them; numbers with a point are float32."""
        read: Inputs = named_rows(self._splits[split], self._column_of, rows)
        return read

    @property
    def is_augmented(self) -> bool:
        """Whether inputs are changed at random, or the training batches came out otherwise when they were drawn a
        second time."""
        return self._again is not None or bool(self._augmentation)

    @property
    def train_targets(self) -> GatheredBatches:
        """Training samples by rows, as batches for the loss."""
        return GatheredBatches(self._splits["train"] if self.has_targets else None, self.samples("train"))

    def view_targets(self, view: int, seed: int) -> GatheredBatches | None:
        """The batches of a view, changed as its inputs are; None where that cannot be done."""
        if not self._is_changed(view):
            change = None
        elif self._along is not None:
            change = partial(self._along.applied, self._drawn_changes(1000 * seed + view))
        elif self.has_targets:
            return None
        return GatheredBatches(self._split_of(view) if self.has_targets else None, self.samples("train"), change)

    def train_view(self, view: int, seed: int) -> TrainInputs:
        """The training samples by rows: those drawn first, or where augmentations make others, as drawn again; and
        changed at random where the user says so."""
        changes = self._drawn_changes(1000 * seed + view) if self._is_changed(view) else {}
        return TrainInputs(self._split_of(view), self._column_of, changes)

    def _split_of(self, view: int) -> BatchSplit:
        """The draw of the training samples that a view is of."""
        return self._again if self._again is not None and view > 0 and view % 2 == 0 else self._splits["train"]

    @property
    def _again(self) -> BatchSplit | None:
        """The training samples as they were drawn a second time; not where those of several shapes are left out."""
        return self._drawn_again if self._splits["train"] is self._every_trained else None

    def _is_changed(self, view: int) -> bool:
        """Whether inputs of a view are changed at random."""
        return bool(self._augmentation) and view > 0 and (self._loss_follows or view % 2 == 0)

    @property
    def _loss_follows(self) -> bool:
        """Whether the loss fits inputs that are changed: there is none, or what it compares with changes along."""
        return self._loss is None or self._along is not None

    @cached_property
    def _along(self) -> ChangesAlong | None:
        return changes_along(self._train, self._column_of, self._augmentation)

    def _drawn_changes(self, number: int) -> dict[str, Changes]:
        """What is changed about inputs, by their names. InputError where inputs are not such as can be."""
        columns = {name: self._splits["train"].column(column) for name, column in self._column_of.items()}
        return drawn_changes(self._augmentation, columns, torch.Generator().manual_seed(number))

    def normalise(self, inputs: Any) -> Inputs:
        """Inputs as they are."""
        unchanged: Inputs = inputs
        return unchanged

    def likelihood(self, outputs: Inputs, ends_in_sigmoid: Collection[str]) -> Likelihood:
        """Classes where `outputs` or the metric say so, or probabilities show it, else numbers; see `Reading`."""
        told = class_outputs(self._measures, by_name(outputs), self._splits["validation"][0]) \
            if self._given_measures else {}
        reading = Reading({**told, **self._meanings}, self._weights, self._masks, self._loss)
        return reading.likelihood(outputs, ends_in_sigmoid)

    def score(self, answers: Answers, split: SplitName, likelihood: Likelihood) -> Score:
        """All metrics, each with its standard error. InputError where one cannot be computed."""
        return scored(answers, self._splits[split], self._scored_by or self._measures,
                      self._original.get(split, {}), split)

    def doubts(self, original: Score, claimed: tuple[str, float] | None) -> list[Warned]:
        """That the original puts out the same for every sample, or is worse than its weights say."""
        doubts = []
        if not self._given_measures:
            doubts.append(Warned("label-free", NOTES[self.metric.name]))
        for name in (each.metric.name for each in self._given_measures if getattr(each, "assumed", False)):
            doubts.append(Warned("direction-assumed", f"of the metric {name} more is taken for better, as nothing says "
                                 f"otherwise: give autocompress.metric({name}, higher_is_better=True), or False"))
        if original.answers and self.samples("validation") > 1:
            doubts.append(Warned("original-one-answer", "the original puts out the same for every sample in "
                                 f"{', '.join(original.answers)}. Likely causes: inputs that are not scaled as in "
                                 "training, or weights of another network"))
        if claimed is not None and self.metric.name in claimed[0]:
            value, error = original.metrics[self.metric.name], original.metrics[self.metric.error]
            if self.metric.drop(claimed[1], value) > max(FAR_BELOW * abs(claimed[1]), ERRORS * error):
                doubts.append(Warned("original-below-its-weights", f"the original reaches {self.metric.format(value)}, "
                                     f"but its weights say {self.metric.format(claimed[1])} ({claimed[0]}). Likely "
                                     "causes: inputs that are not scaled as in training, or other data"))
        return doubts

    def losses(self, original: Score, result: Score) -> tuple[list[Warned], dict[str, Any]]:
        """That a file is far below the original in a metric."""
        losses = []
        for measure in self._measures:
            metric = measure.metric
            if measure.needs_original and not metric.is_share:
                continue  # an error against the original itself is 0 for it, which is no scale for what is far
            before, after = original.metrics[metric.name], result.metrics[metric.name]
            error = max(original.metrics[metric.error], result.metrics[metric.error])
            if metric.drop(before, after) > max(FAR_BELOW * Reference(metric, before).scale, ERRORS * error):
                losses.append(Warned("result-far-below-original", f"the exported file reaches {metric.name} "
                                     f"{metric.format(after)} on the test data, far from the original's "
                                     f"{metric.format(before)}: allow more bytes, or more time"))
        return losses, {}

    def input_facts(self) -> dict[str, Any]:
        """Inputs are not changed."""
        return {"scale": "as given"}

    def shipped_files(self) -> dict[str, bytes]:
        """None."""
        return {}

    def output_facts(self, likelihood: Likelihood, name: str = "output") -> dict[str, Any]:
        """What an output means."""
        meaning = likelihood.meaning(name) if isinstance(likelihood, OwnLoss) else None
        return {"meaning": "numbers" if meaning is None else DESCRIPTIONS[meaning]}


# Its public name; `tasks.base.Task` is the protocol.
Task = BatchTask


class TrainInputs:
    """Training samples by rows, as the network reads them, with changes by the names of its inputs."""

    def __init__(self, split: BatchSplit, names: Mapping[str, str], changes: Mapping[str, Changes]) -> None:
        self._split, self._names, self._changes = split, names, changes

    def __len__(self) -> int:
        """Number of samples."""
        return self._split.samples

    def __getitem__(self, rows: Any) -> Any:
        """The samples of `rows`."""
        return named_rows(self._split, self._names, rows, self._changes)


def _check_arguments(loss: Any, meanings: Mapping[str, str], weights: Mapping[str, float]) -> None:
    if loss is not None and not callable(loss):
        raise InputError(f"loss must be a function of outputs and a batch, but is {type(loss).__name__}")
    for name, meaning in meanings.items():
        if meaning not in MEANINGS:
            raise InputError(f"outputs must say {', '.join(MEANINGS)}, but {name} is {meaning!r}")
    for name, weight in weights.items():
        if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise InputError(f"weights must be numbers of 0 or more, but that of {name} is {weight!r}")
    if weights and not any(weights.values()):
        raise InputError("one of the weights must be above 0")
