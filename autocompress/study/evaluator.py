"""Evaluation of plans: compress, recover, write the file, run it, time it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor

from autocompress.backend.graph.macs import count_macs
from autocompress.backend.network.compressed import Compressed
from autocompress.core.allocator import release_memory
from autocompress.core.evaluation import Evaluation, Metrics, Source
from autocompress.core.metric import DIVERGENCE, Reference
from autocompress.core.plan import Plan
from autocompress.core.store import Store
from autocompress.errors import InputError, TrialError
from autocompress.estimate import estimate
from autocompress.formats.base import Runtime
from autocompress.formats.running import on_device
from autocompress.formats.timing import Timing, time_files
from autocompress.hardware.profile import HardwareProfile
from autocompress.search.executors.base import Job, Outcome, alone
from autocompress.space.format_legality import check_format
from autocompress.study import racing
from autocompress.study.built_files import keep_file, kept_file
from autocompress.study.file_answers import (
    answers_of,
    answers_to,
    calibration_answers,
    canonical_answers,
    has_calibrated_shape,
)
from autocompress.study.file_writer import about_the_original, as_arrays
from autocompress.study.measuring_place import RemoteRuntime
from autocompress.study.original import OriginalFile, original_of
from autocompress.study.process_state import own_randomness
from autocompress.study.racing import LEAST, SAMPLES, SCORED_WHOLE, Sizes, corrected, part_of, say, sizes
from autocompress.study.traced import TracedNetwork
from autocompress.study.trainer import Trainer
from autocompress.tasks.base import Score, SplitName
from autocompress.tasks.score import Answers
from autocompress.techniques.apply import check_plan

# Values of outputs, in canonical form, that are compared with the original's: about 128 MiB.
COMPARED_VALUES = 2**25


class Evaluator:
    """Evaluates plans at any rung on the file that would ship. Deterministic for a seed.

    Args:
        network: the traced original.
        trainer: recovers compressed networks.
        profile: the device, or several as one.
        store: keeps the files that were scored, and what workers send back.
        threads: CPU threads for scoring; latency is measured with one.
    """

    def __init__(self, network: TracedNetwork, trainer: Trainer, profile: HardwareProfile, *, store: Store,
                 threads: int = 1) -> None:
        self.network, self.trainer, self.profile, self.threads = network, trainer, profile, threads
        # On how many validation samples candidates are scored; None: on all.
        self.sizes: Sizes | None = None
        # Calls a `Stopwatch` where latency is measured elsewhere; None: this process times files.
        self.measuring: Callable[..., Any] | None = None
        # What the original took on as many as are scored of any, and on each.
        self.scoring_seconds = self.sample_seconds = 0.0
        # Seconds of the search.
        self.limit = math.inf
        # Whether there is time to make a plain export of the original, where there is none yet.
        self.exports_plainly = True
        # The network that was calibrated last, by the fingerprint of its plan: the best of a short search.
        self._calibrated: tuple[str, Compressed] | None = None
        self._originals: dict[int | None, tuple[Score, Tensor]] = {}
        self._store = store
        self._example = as_arrays(network.example)
        self._format = network.writer.format

    # -- metrics -----------------------------------------------------------------------------------------

    @cached_property
    def original(self) -> OriginalFile:
        """The original's own file, a plain export, that candidates are compared with. Made when first asked for: it
        takes seconds."""
        network = self.network
        return original_of(self._format, network.user_model, network.writer.original_file,
                           network.calibration[:network.writer.parity_rows], network.writer.example, self.open_to_time,
                           network.graphs, self.exports_plainly)

    def prepare(self) -> None:
        """Make what takes long and is needed later: the plain export."""
        assert self.original.file

    def baseline(self) -> Metrics:
        """The original's metrics: size and latency of its plain export, and the task's metric of its float file on the
        validation split. InputError where its outputs are not finite."""
        network = self.network
        runtime = self.open(network.writer.original_file)
        metrics = self._static(network.original(), self.original.size_bytes, runtime)
        began = time.perf_counter()
        metrics |= self._original_on(self._last)[0].metrics | self._part(self._last)
        self.scoring_seconds = time.perf_counter() - began
        self.sample_seconds = self.scoring_seconds / (self._last or network.task.samples("validation"))
        if self._told_apart:
            metrics[DIVERGENCE] = 0.0
        return metrics | self._latency(Plan(), lambda: self.original.time_beside({}, self._example)[1])

    def settle_sizes(self, limit: float | None, last: int | None = None, scored_whole: bool = False) -> None:
        """Decide on how many validation samples candidates are scored, where there are many, or where each takes long
        for the time limit: see `racing`.

        Args:
            limit: seconds of the search, if any.
            last: the most, where an earlier run of the study has decided on it.
            scored_whole: whether an earlier run of the study has scored the whole split.
        """
        task = self.network.task
        samples, tested = task.samples("validation"), task.samples("test")
        if samples <= SCORED_WHOLE:
            if limit is not None and not scored_whole:
                self.sizes = racing.slow_sizes(self._seconds_of_one(), samples, tested, limit) if last is None else \
                    Sizes(last, last, tested)
                if self.sizes is not None:
                    say(self.sizes, samples, tested)
            return
        if task.part("validation", LEAST) is None:
            return
        began = time.perf_counter()
        measured = self._original_on(LEAST)[0].metrics
        reference = Reference(task.metric, measured[task.metric.name])
        counts = sizes(reference, measured[task.metric.error], LEAST, time.perf_counter() - began, samples, tested,
                       limit)
        self.sizes = counts if last is None else replace(counts, first=min(counts.first, last), last=last)
        say(self.sizes, samples, tested)

    def _seconds_of_one(self) -> float:
        """Seconds in which the original's file answers one validation sample."""
        rows = next(self.network.task.rows("validation", racing.TIMED))
        with closing(self.open(self.network.writer.original_file)) as runtime:
            began = time.perf_counter()
            outputs = answers_to(runtime, self.network, "validation", rows)
            return (time.perf_counter() - began) / len(next(iter(outputs.values())))

    @property
    def original_score(self) -> Score:
        """The score of the original's float file on the validation split, as far as it is scored. InputError where its
        outputs are not finite."""
        return self._original_on(self._last)[0]

    @property
    def test_samples(self) -> int | None:
        """How many samples of the test split are scored; None for all."""
        return None if self.sizes is None else self.sizes.test

    @property
    def _last(self) -> int | None:
        return None if self.sizes is None else self.sizes.last

    def _original_on(self, samples: int | None) -> tuple[Score, Tensor]:
        """What `_compared` returns for the original's float file."""
        if samples not in self._originals:
            with about_the_original(self._format.runtime):
                self._originals[samples] = self._compared(self.open(self.network.writer.original_file), samples)
        return self._originals[samples]

    @staticmethod
    def _part(samples: int | None) -> Metrics:
        """What metrics say about the samples that they are of."""
        return {} if samples is None else {SAMPLES: samples}

    def answers(self, runtime: Runtime, split: SplitName, samples: int | None = None) -> Answers:
        """What a file puts out for one split, or for so many samples that stand for it, some rows after others.
        TrialError where that is not finite."""
        return answers_of(runtime, self.network, split, samples)

    def score(self, runtime: Runtime, split: SplitName, samples: int | None = None) -> Score:
        """The task's score of a file on one split, or on so many samples that stand for it."""
        return self.network.task.score(self.answers(runtime, split, samples), split, self.network.likelihood)

    def validated(self, runtime: Runtime, candidate: Metrics, baseline: Metrics) -> Metrics:
        """The task's metrics of a file on the validation samples that those of a candidate are of, with the correction
        that they have; `baseline`: the original's."""
        part = part_of(candidate)
        metrics = self.score(runtime, "validation", part).metrics
        if part is None or part == part_of(baseline):
            return metrics
        return corrected(metrics, self._original_on(part)[0].metrics, baseline)

    @property
    def _told_apart(self) -> bool:
        """Whether the divergence from the original tells files of equal value apart: the task has no finer metric."""
        return self.network.task.metric.finer == DIVERGENCE

    def _compared(self, runtime: Runtime, samples: int | None) -> tuple[Score, Tensor]:
        """The score of a file on the validation split, or a part of it, and its answers to the first samples in
        canonical form: as many as are compared with the original's."""
        compared: list[Tensor] = []

        def watched() -> Answers:
            for rows, outputs in self.answers(runtime, "validation", samples):
                if self._told_apart and sum(answers.numel() for answers in compared) < COMPARED_VALUES:
                    inputs = self.network.task.inputs("validation", rows)
                    if has_calibrated_shape(self.network, inputs):
                        compared.append(canonical_answers(self.network, outputs, inputs))
                yield rows, outputs

        score = self.network.task.score(watched(), "validation", self.network.likelihood)
        if self._told_apart and not compared:  # no validation sample is of the size that is trained on
            compared = [calibration_answers(runtime, self.network)]
        return score, torch.cat(compared) if compared else torch.empty(0)

    def _scored(self, runtime: Runtime, samples: int | None) -> Metrics:
        """The task's metrics of a candidate's file on the validation split, or a part of it, with its divergence where
        that tells files apart. TrialError where the task cannot score it, InputError where it cannot score the
        original either."""
        try:
            score, answers = self._compared(runtime, samples)
        except InputError as error:
            self._original_on(samples)
            raise TrialError(str(error)) from error
        metrics = score.metrics | self._part(samples)
        if self._told_apart:
            metrics[DIVERGENCE] = self.network.likelihood.divergence(answers, self._original_on(samples)[1])
        return metrics

    def open(self, data: bytes) -> Runtime:
        """Load a file for scoring, with all threads. TrialError when its runtime refuses it."""
        return self._format.open(data, self.threads)

    def open_to_time(self, data: bytes) -> Runtime:
        """Load a file, with one thread, at the one place where latency is measured. TrialError as `open`."""
        return self._format.open(data) if self.measuring is None else RemoteRuntime(self.measuring, self._format, data)

    def _static(self, compressed: Compressed, size: int, runtime: Runtime) -> Metrics:
        executed = self.network.executed(compressed)
        estimated = estimate(self.network.table, compressed.plan, self.profile, self._format, self.network.techniques)
        return {
            "size_bytes": size, "macs": count_macs(executed, self.network.example),
            "params": sum(p.numel() for p in executed.parameters()),
            "peak_memory_bytes": estimated["peak_memory_bytes"], **on_device(runtime),
        }

    def _latency(self, plan: Plan, timed: Callable[[], Timing]) -> Metrics:
        """Latency on each device: what `timed` returns, beside wall time and its spread, where it is measured; the
        estimate elsewhere."""
        estimated = estimate(self.network.table, plan, self.profile, self._format, self.network.techniques)
        metrics = Metrics()
        for name in self.profile.latencies:
            metrics |= {name: estimated[name]} if name in estimated else timed().metrics(name)
        return metrics

    @property
    def sources(self) -> dict[str, Source]:
        """Which metrics are measured on the file, which estimated."""
        task = self.network.task
        quality = [name for metric in (task.metric, *task.further) for name in (metric.name, metric.error)]
        measured = (*quality, task.metric.finer, "size_bytes", "macs", "params")
        return {**dict.fromkeys(measured, "measured"), "peak_memory_bytes": "estimated",
                **{name: device.latency for name, device in self.profile.latencies.items()}}

    # -- candidates --------------------------------------------------------------------------------------

    def evaluate(self, plan: Plan, rung: int, seconds: float | None = None,
                 should_stop: Callable[[], bool] | None = None, threads: int | None = None) -> Evaluation:
        """Compress, recover as the rung says, build the file and measure it, with `threads` where they are given.

        TrialError when the candidate fails: not finite, not exportable, or stopped.
        """
        samples = None if self.sizes is None else self.sizes.by_rung[rung]
        return self.completed(self._outcome(plan, rung, seconds, should_stop, threads, samples))

    def outcome(self, job: Job, should_stop: Callable[[], bool]) -> Outcome:
        """As `evaluate`, but without the latency that is measured, see `completed`; with the threads that it has."""
        return self._outcome(job.plan, job.rung, job.seconds, should_stop, None, job.samples)

    def outcome_in_worker(self, job: Job, should_stop: Callable[[], bool]) -> Outcome:
        """As `outcome`, with the threads that the job asks for."""
        return self._outcome(job.plan, job.rung, job.seconds, should_stop, job.threads, job.samples)

    def completed(self, outcome: Outcome,
                  quiet: Callable[[], AbstractContextManager[None]] = nullcontext) -> Evaluation:
        """Keep what a worker sends back and time the file, at the one place where that is done: on this machine and,
        inside `quiet`, beside nothing else of the search, or on a host where nothing else runs."""
        for key, data in outcome.stored.items():
            self._store.put(key, data)
        evaluation, timings = outcome.evaluation, dict(outcome.evaluation.timings)
        metrics = dict(evaluation.metrics)
        if self.sizes is not None and (part := part_of(metrics)) not in (None, self._last):
            metrics = corrected(metrics, self._original_on(part)[0].metrics, self.original_score.metrics)
        unknown = [name for name in self.profile.latencies if name not in metrics]
        if unknown:
            here = quiet() if self.measuring is None else nullcontext()
            with _timed(timings, "time"), closing(self.open_to_time(outcome.file)) as runtime, alone(), here:
                timing = time_files({"file": runtime}, self._example)["file"]
            for name in unknown:
                metrics |= timing.metrics(name)
        file = keep_file(self._store, outcome.file, self._format.suffix)
        return replace(evaluation, metrics=metrics, timings=timings, file=file)

    def _outcome(self, plan: Plan, rung: int, seconds: float | None, should_stop: Callable[[], bool] | None,
                 threads: int | None, samples: int | None) -> Outcome:
        if threads is not None and threads != self.threads:
            self.threads = self.trainer.threads = self.network.writer.threads = threads
            torch.set_num_threads(threads)
        check_plan(self.network.table, plan, self.profile, self.network.techniques)
        check_format(plan, self.network.table, self._format)
        with own_randomness(self.network.seed):  # what a candidate becomes does not hang on those before it
            return self._evaluated(plan, rung, seconds, should_stop, samples)

    def _evaluated(self, plan: Plan, rung: int, seconds: float | None, should_stop: Callable[[], bool] | None,
                   samples: int | None) -> Outcome:
        trainer, timings, weights = self.trainer, dict[str, float](), ""
        release_memory()
        with _timed(timings, "compress"):
            trained = trainer.is_trained(plan, rung - 1)
            compressed = trainer.rebuild(plan, rung - 1) if trained else self.network.compressor.compress(plan)
        if rung and not trained:
            with _timed(timings, "inherit"):
                compressed, trained = trainer.inherited(compressed)
        if rung:
            release_memory()
            with _timed(timings, "distill"):
                weights = trainer.train(compressed, rung, seconds, trained, should_stop)
        outcome = self._written(compressed, rung, timings, weights, samples)
        if rung == 0:
            self._calibrated = plan.fingerprint, compressed
        return outcome

    def network_of(self, plan: Plan, evaluation: Evaluation) -> Compressed:
        """The network that was evaluated, which must not be changed: as it was kept, or made again.

        Args:
            plan: the candidate's.
            evaluation: the candidate's.

        Raises:
            StorageError: where its weights are gone.
        """
        if evaluation.rung == 0 and self._calibrated is not None and self._calibrated[0] == plan.fingerprint:
            return self._calibrated[1]
        return self.trainer.rebuild(plan, evaluation.rung, evaluation.weights)

    def measured(self, compressed: Compressed, rung: int, timings: dict[str, float], weights: str = "") -> Evaluation:
        """Build the file, run and time it; `timings` are of what was done before, `weights` is the hash of the file
        that holds them. TrialError when it cannot be exported."""
        return self.completed(self._written(compressed, rung, timings, weights, self._last))

    def rescored(self, plan: Plan, evaluation: Evaluation) -> Evaluation:
        """An evaluation with the task's metrics of its file on as many validation samples as there are for any."""
        with closing(self.open(self.file_of(plan, evaluation))) as runtime:
            return replace(evaluation, metrics=evaluation.metrics | self._scored(runtime, self._last))

    def _written(self, compressed: Compressed, rung: int, timings: dict[str, float], weights: str,
                 samples: int | None) -> Outcome:
        release_memory()
        with _timed(timings, "export"):
            built = self.network.write(compressed)
        sources = self.sources
        opened = self._format.open_on(self.trainer.device, built.data, self.threads)
        with _timed(timings, "score"), closing(opened) as runtime:
            metrics = self._scored(runtime, samples)
            metrics = self._static(compressed, len(built.data), runtime) | metrics
            estimated = estimate(self.network.table, compressed.plan, self.profile, self._format,
                                 self.network.techniques)
            metrics |= {name: estimated[name] for name in self.profile.latencies if name in estimated}
            told = on_device(runtime)
            metrics, sources = metrics | told, sources | dict.fromkeys(told, runtime.source)
        evaluation = Evaluation(rung=rung, metrics=metrics, sources=sources, timings=timings, weights=weights,
                                receipts=(*compressed.receipts, *built.receipts))
        return Outcome(evaluation=evaluation, file=built.data)

    def file_of(self, plan: Plan, evaluation: Evaluation) -> bytes:
        """The file that was run to evaluate a plan: as it was kept, or made again."""
        stored_file = kept_file(self._store, evaluation.file, self._format.suffix)
        if stored_file is not None:
            return stored_file
        return self.network.write(self.network_of(plan, evaluation)).data


@contextmanager
def _timed(timings: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[phase] = timings.get(phase, 0.0) + time.perf_counter() - start
