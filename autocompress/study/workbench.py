"""One original on its bench: everything needed to turn a plan into a file and the file into metrics."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.backend.canonical.attention import with_open_heads
from autocompress.backend.canonical.layer_forms import in_one_form
from autocompress.backend.canonical.plain_layers import with_plain_layers
from autocompress.backend.compress import Compressor
from autocompress.backend.graph.batch_parity import check_batch_parity
from autocompress.backend.graph.macs import count_macs
from autocompress.backend.graph.trace import trace
from autocompress.backend.network.checkpoint import load_weights, require_weights, save_weights
from autocompress.backend.network.compressed import Compressed, step_of, weight_bits
from autocompress.backend.network.fold import fold_norms
from autocompress.backend.statistics.outputs import recognised
from autocompress.backend.training.distill import Recipe, autocast, check_recipe, distill
from autocompress.backend.training.feature_distillation import Original
from autocompress.backend.training.teacher import Teacher
from autocompress.backend.training.training_mode import difference
from autocompress.core.answers import as_scores, explanation
from autocompress.core.batch_sizes import (
    EVERY_TENSOR_BYTES,
    RANGE_BYTES,
    TRAINING_BYTES,
    calibration_rows,
    rows_at_once,
)
from autocompress.core.cancellation import checkpoint
from autocompress.core.evaluation import Evaluation, Metrics, Source
from autocompress.core.plan import Plan, Receipt
from autocompress.errors import InputError, TrialError
from autocompress.estimate import estimate, peak_memory_bytes
from autocompress.formats.onnx.runtime import MOST_ROWS, Runtime, answered, scored
from autocompress.formats.onnx.scores import scores
from autocompress.formats.onnx.skeleton import as_exported
from autocompress.formats.onnx.template import Template, export_template
from autocompress.formats.onnx.timing import Timing, time_files
from autocompress.formats.onnx.writer import Built, build, float_bytes
from autocompress.hardware.profile import HardwareProfile
from autocompress.study.built_files import keep_file, kept_file
from autocompress.study.folder import TEACHER
from autocompress.study.int8_teacher import answering_file
from autocompress.study.original import OriginalFile, original_of
from autocompress.study.process_state import own_randomness
from autocompress.study.sanity_checks import Answers
from autocompress.study.warm_start import weights_path, with_relative
from autocompress.tasks.splits import Split, TaskData
from autocompress.techniques import resolve
from autocompress.techniques.base import check_plan
from autocompress.techniques.quantize import range_method

log = logging.getLogger(__name__)

CALIBRATION_SAMPLES = 512
RANGE_SAMPLES = 256
"""At most, of small inputs; fewer of large ones, see `core/batch_sizes.py`."""
PARITY_SAMPLES = 16
HEAD_SAMPLES = 4
LEAST_BATCH = 8
"""Of an optimiser step, whatever the bytes: norms need some samples."""
SHORT_STEPS, LONG_STEPS = 32, 128
"""Least optimiser steps of a short and a long distillation when no time limit shapes them."""


class Workbench:
    """Holds one trained network and its data; evaluates plans at any rung. Deterministic for a seed.

    `folder` keeps the weights of distilled candidates and the teacher's answers, `statistics` (if given) what is
    measured of the original, for other studies too. `threads` is for accuracy and training; latency is measured with
    one. `recovery`: how to train; how long is for the rung. With `block_steps`, rung 1 reconstructs blocks, no more.
    `earlier`: the folder of another study of the same network, whose trained weights may be inherited.
    """

    def __init__(self, model: nn.Module, data: TaskData, profile: HardwareProfile, *, seed: int, folder: Path,
                 epochs: int, device: str = "cpu", threads: int = 1, statistics: Path | None = None,
                 recovery: Recipe | None = None, earlier: Path | None = None) -> None:
        self.data, self.profile, self.seed = data, profile, seed
        self._folder, self._epochs, self._device, self.threads = folder, epochs, device, threads
        self._folders = [folder] if earlier is None else [folder, earlier]
        count = calibration_rows(data.input_shape, CALIBRATION_SAMPLES)
        self.calibration = data.normalise(_subset(data.train, count, seed).inputs)
        self._given = model
        check_batch_parity(model, self.calibration)
        model = with_plain_layers(model, self.calibration[:HEAD_SAMPLES])
        model, left_whole = with_open_heads(model, self.calibration[:HEAD_SAMPLES])
        model, left_too = in_one_form(model, self.calibration[:HEAD_SAMPLES])
        self.model = model
        table, coupling = trace(model, data.input_shape, data.dtype, self.calibration)
        if table.outputs != data.classes:
            raise InputError(f"the network must have one output for each of the {data.classes} classes of "
                             f"{data.name}, but it has {table.outputs}")
        self.refused = left_whole | left_too | coupling.refused
        self.answers = recognised(model, self.calibration)
        self._otherwise = difference(model, self.calibration[:HEAD_SAMPLES])
        folded = fold_norms(Compressed(model, Plan()), table).model
        with _exportable():
            self.template = export_template(folded, data.input_shape, data.dtype)
        self._templates = {frozenset[str](): self.template}
        self.baseline_file = float_bytes(self.template, folded)
        self.table = as_exported(table, self.template, folded)
        self.compressor = Compressor(model, self.table, coupling, self.calibration, statistics, self.answers)
        with _of_the_original():
            self._check_parity(model, self.baseline_file, 1e-3)
        self._recovery = recovery or Recipe()
        check_recipe(self._recovery, self.table, self.calibration)
        self._fast: dict[int, Runtime] = {}  # by threads
        self.original_answers: Answers | None = None
        self.teacher = Teacher(self._answer, data, seed, folder / TEACHER)
        self.example = self.calibration[:1].numpy()

    @property
    def notes(self) -> list[str]:
        """Sentences for the user about how this network is treated."""
        mode = f"the network {self._otherwise}: it is trained as it is shipped, in eval mode, with live norms"
        return [note for note in (explanation(self.answers.meaning), mode if self._otherwise else "") if note]

    # -- metrics -----------------------------------------------------------------------------------------

    @cached_property
    def original(self) -> OriginalFile:
        """The original's own file, a plain export, that candidates are compared with. Made when first asked for: it
        takes seconds."""
        return original_of(self._given, self.baseline_file, self.calibration[:PARITY_SAMPLES].numpy(), self.data.dtype)

    def prepare(self) -> None:
        """Make what takes long and is needed later: the plain export."""
        assert self.original.file

    def baseline(self) -> Metrics:
        """The original's metrics: size and latency of its plain export, what the network answers on the validation
        split, which is kept as `original_answers`. InputError where its answers are not finite."""
        runtime = Runtime(self.baseline_file, self.threads)
        metrics = self._static(Compressed(self.model, Plan()), self.original.size_bytes)
        with _of_the_original():
            outputs = answered(runtime, self._batches(self.data.validation))
        metrics |= scores(as_scores(outputs, self.answers.meaning), self.data.validation.targets.numpy())
        self.original_answers = self._answers(outputs, self.data.validation)
        return metrics | self._latency(Plan(), lambda: self.original.time_beside({}, self.example)[1])

    def accuracy(self, runtime: Runtime, split: Split) -> float:
        """Accuracy of a file on one split, 0 to 1."""
        return self.answers_of(runtime, split).accuracy

    def answers_of(self, runtime: Runtime, split: Split) -> Answers:
        """The classes that a file answers on one split, beside the labels. TrialError when an output is not finite."""
        return self._answers(answered(runtime, self._batches(split)), split)

    def _answers(self, outputs: np.ndarray, split: Split) -> Answers:
        return Answers(split.targets.numpy(), outputs.argmax(axis=1), self.data.classes, self.data.class_names)

    def _scored(self, runtime: Runtime, split: Split) -> Metrics:
        return scored(runtime, self._batches(split), split.targets.numpy(), self.answers.meaning)

    def _batches(self, split: Split) -> Iterator[np.ndarray]:
        """Normalised inputs as they are needed."""
        rows = rows_at_once(self.data.input_shape, MOST_ROWS)
        for done in range(0, len(split), rows):
            checkpoint("scoring", done, len(split))
            yield self.data.normalise(split.inputs[done:done + rows]).numpy()

    def _static(self, compressed: Compressed, size: int) -> Metrics:
        plan, model = compressed.plan, fold_norms(compressed, self.table).model  # what the file executes
        return {
            "size_bytes": size, "macs": count_macs(model, self.data.input_shape, self.data.dtype),
            "params": sum(p.numel() for p in model.parameters()),
            "peak_memory_bytes": peak_memory_bytes(self.table, resolve(self.table, plan), self.profile),
        }

    def _latency(self, plan: Plan, timed: Callable[[], Timing]) -> Metrics:
        """On each device; what `timed` says, beside wall time and its spread, on the one where it is measured."""
        known, metrics = estimate(self.table, plan, self.profile), Metrics()
        for name in self.profile.latencies:
            metrics |= {name: known[name]} if name in known else timed().metrics(name)
        return metrics

    @property
    def sources(self) -> dict[str, Source]:
        """Which metrics are measured on the file, which estimated."""
        measured = ("accuracy", "accuracy_error", "cross_entropy", "size_bytes", "macs", "params")
        return {**dict.fromkeys(measured, "measured"), "peak_memory_bytes": "estimated",
                **{n: d.latency for n, d in self.profile.latencies.items()}}

    # -- candidates --------------------------------------------------------------------------------------

    def evaluate(self, plan: Plan, rung: int, seconds: float | None = None,
                 should_stop: Callable[[], bool] | None = None, threads: int | None = None) -> Evaluation:
        """Compress, recover as the rung says, build the file and measure it, with `threads` where they are given.

        TrialError when the candidate fails: not finite, not exportable, or stopped.
        """
        if threads is not None and threads != self.threads:
            self.threads = threads
            torch.set_num_threads(threads)
        check_plan(self.table, plan, self.profile)
        with own_randomness(self.seed):  # what a candidate becomes does not hang on those before it
            return self._evaluated(plan, rung, seconds, should_stop)

    def _evaluated(self, plan: Plan, rung: int, seconds: float | None,
                   should_stop: Callable[[], bool] | None) -> Evaluation:
        timings: dict[str, float] = {}
        with _timed(timings, "compress"):
            trained = rung > 1 and self.weights_path(plan, rung - 1).is_file()
            compressed = self.rebuild(plan, rung - 1) if trained else self.compressor.compress(plan)
        weights = ""
        if rung:
            if not trained:
                with _timed(timings, "inherit"):
                    compressed, trained = with_relative(compressed, self.compressor, self.table, self._folders,
                                                        self._wanted)
            with _timed(timings, "distill"):
                recipe = self._recipe(rung, seconds, trained)
                distill(compressed, self.teacher, self.data, recipe, self.calibration, self.seed, self._device,
                        should_stop, Original(self._original, self.table, self.compressor.coupling), self.answers,
                        as_shipped=bool(self._otherwise))
            weights = save_weights(compressed, self.weights_path(plan, rung))
        return self.measured(compressed, rung, timings, weights)

    def measured(self, compressed: Compressed, rung: int, timings: dict[str, float], weights: str = "") -> Evaluation:
        """Build the file and run it; `timings` are of what was done before, `weights` is the hash of the file that
        holds them. TrialError when it cannot be exported."""
        with _timed(timings, "export"):
            built = self.build(compressed)
        with _timed(timings, "score"):
            metrics = self._static(compressed, len(built.data))
            metrics |= self._scored(Runtime(built.data, self.threads), self.data.validation)
        with _timed(timings, "time"):
            metrics |= self._latency(compressed.plan,
                                     lambda: time_files({"file": Runtime(built.data)}, self.example)["file"])
        return Evaluation(rung=rung, metrics=metrics, sources=self.sources, receipts=_receipts(compressed, built),
                          timings=timings, file=keep_file(self._folder, built.data), weights=weights)

    def file_of(self, plan: Plan, evaluation: Evaluation) -> bytes:
        """The file that was run to evaluate a plan: as it was kept, or made again."""
        kept = kept_file(self._folder, evaluation.file)
        return self.build(self.rebuild(plan, evaluation.rung, evaluation.weights)).data if kept is None else kept

    def rebuild(self, plan: Plan, rung: int, weights: str = "") -> Compressed:
        """The network of a plan as it was after `rung`: recomputed, or read when training was involved. StorageError
        where the file of its weights is gone, or has another hash than `weights`, if that is known."""
        if rung > 0:
            path = self.weights_path(plan, rung)
            require_weights(path, weights)
            return load_weights(self.compressor.restructure(plan, fit=False), path)
        return self.compressor.compress(plan)

    def weights_path(self, plan: Plan, rung: int) -> Path:
        """Where the weights of a distilled candidate are."""
        return weights_path(self._folder, plan, rung)

    @cached_property
    def _wanted(self) -> Tensor:
        """The original's logits `(N, classes)` for the calibration data."""
        outputs = Runtime(self.baseline_file, self.threads).logits(self.calibration.numpy())
        return torch.from_numpy(as_scores(outputs, self.answers.meaning))

    def _recipe(self, rung: int, seconds: float | None, trained: bool = False) -> Recipe:
        batch = rows_at_once(self.data.input_shape, self._recovery.batch, TRAINING_BYTES)
        known = replace(self._recovery, batch=max(min(LEAST_BATCH, self._recovery.batch), batch))
        if trained:
            known = replace(known, block_steps=0)
        if rung == 1 and known.block_steps:  # a short distillation behind it only did sensitivity
            return replace(known, epochs=0.0, seconds=seconds)
        per_epoch = max(1, len(self.data.train) // known.batch)
        if seconds is not None:
            # The clock ends it; the count only has to be out of reach.
            return replace(known, epochs=1000.0, seconds=seconds, charge_teacher=rung > 1)
        epochs, steps = (max(1, self._epochs // 8), SHORT_STEPS) if rung == 1 else (self._epochs, LONG_STEPS)
        return replace(known, epochs=max(epochs, steps / per_epoch))

    def _answer(self, inputs: Tensor) -> Tensor:
        """The original's logits `(N, classes)` for the teacher to give. On a CPU they come from its own 8-bit file
        where that gives the same classes: it is several times faster there."""
        if self._fast_file is not None:
            if self.threads not in self._fast:
                self._fast[self.threads] = Runtime(self._fast_file, self.threads)
            return self.answers.scores(torch.from_numpy(self._fast[self.threads].run(inputs.numpy())))
        with torch.inference_mode(), autocast(self._device):
            outputs: Tensor = self._original(inputs.to(self._device))
        return self.answers.scores(outputs)

    @cached_property
    def _original(self) -> nn.Module:
        return self.model.eval() if self._device == "cpu" else copy.deepcopy(self.model).to(self._device).eval()

    @cached_property
    def _fast_file(self) -> bytes | None:
        return answering_file(self) if self._device == "cpu" else None

    def build(self, compressed: Compressed) -> Built:
        """The file of a compressed network, checked against it.

        The template serves all plans whose graph differs only in tensors and factors; when a channel count is
        written into the graph elsewhere, the network is exported afresh.
        """
        folded = fold_norms(compressed, self.table)
        widths = weight_bits(compressed.model, compressed.plan)
        method = range_method(compressed.plan)
        activations = {name: int(step_of(name, compressed.plan).args["activation_bits"])
                       for name, bits in widths.items() if bits <= 8}
        quantised = {name: bits for name, bits in activations.items() if bits <= 16}
        half = {name for name, bits in widths.items() if bits == 16}
        count = calibration_rows(self.data.input_shape, RANGE_SAMPLES, RANGE_BYTES)
        ranges = self.calibration[:count].numpy()

        def make(template: Template) -> Built:
            self._check_parity(folded.model, float_bytes(template, folded.model), 1e-3)
            return build(template, folded.model, folded.weights, half, quantised, ranges, self.threads, method,
                         folded.masks)

        try:
            return make(self.template_of(compressed.plan))
        except TrialError as error:
            log.info("exporting afresh: %s", error)
            return make(export_template(folded.model, self.data.input_shape, self.data.dtype))

    def template_of(self, plan: Plan) -> Template:
        """The original's graph without the blocks that `plan` drops: one for all plans that drop the same."""
        drops = tuple(plan.find("drop").values())
        key = frozenset(step.site for step in drops)
        if key not in self._templates:
            bare = fold_norms(self.compressor.restructure(Plan.of(drops), fit=False), self.table).model
            self._templates[key] = export_template(bare, self.data.input_shape, self.data.dtype)
        return self._templates[key]

    def _check_parity(self, model: nn.Module, file: bytes, tolerance: float) -> None:
        """TrialError unless the float file computes what the network computes."""
        inputs = self.calibration[:rows_at_once(self.data.input_shape, PARITY_SAMPLES, EVERY_TENSOR_BYTES)]
        with torch.no_grad():
            expected = model(inputs).numpy()
        if not np.isfinite(expected).all():
            raise TrialError("nan: the network puts out values that are not finite")
        runtime = Runtime(file, self.threads)
        got, alone = runtime.run(inputs.numpy()), runtime.run(inputs[:1].numpy())
        if (got.shape, alone.shape) != (expected.shape, expected[:1].shape):
            raise TrialError(f"the exported graph must put out {expected.shape}, and {expected[:1].shape} of one "
                             f"sample, but puts out {got.shape} and {alone.shape}")
        error = max(np.abs(got - expected).max(), np.abs(alone - expected[:1]).max())
        error /= max(float(np.abs(expected).max()), 1e-6)
        if not error <= tolerance:
            raise TrialError(f"the exported graph must compute what the network computes (to {tolerance:g} "
                             f"relative), but differs by {error:.2g}")


@contextmanager
def _exportable() -> Iterator[None]:
    """What cannot be exported is what the user gave."""
    try:
        yield
    except TrialError as error:
        raise InputError(f"the network must be exportable to ONNX by torch, for any number of samples, but {error}. "
                         "Replace that operation in its forward") from error


@contextmanager
def _of_the_original() -> Iterator[None]:
    """What fails here is what the user gave."""
    try:
        yield
    except TrialError as error:
        raise InputError("the original must compute the same in ONNX Runtime as in torch, and finite scores, but "
                         f"{error}. Look for randomness in its forward that eval() leaves on, and for NaN or infinite "
                         "values in its weights or in the data") from error


def _subset(split: Split, count: int, seed: int) -> Split:
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    return split.take(order[:count])


def _receipts(compressed: Compressed, built: Built) -> tuple[Receipt, ...]:
    ranges = [Receipt(name, "activation-range", {"scale": r.scale, "zero_point": r.zero_point})
              for name, r in built.ranges.items()]
    return (*compressed.receipts, *ranges)


@contextmanager
def _timed(timings: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[phase] = timings.get(phase, 0.0) + time.perf_counter() - start
