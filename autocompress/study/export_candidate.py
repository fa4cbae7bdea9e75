"""Exporting a candidate and proving that the file does what was promised."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from autocompress.artifact.anonymous import anonymous, require_no_names
from autocompress.artifact.card import Running, model_card
from autocompress.artifact.encryption import SUFFIX
from autocompress.artifact.folder import versions, write_artifact
from autocompress.artifact.isolated import run_isolated
from autocompress.artifact.machine import this_machine
from autocompress.artifact.manifest import SAMPLES, SCHEMA, SampleFacts
from autocompress.artifact.options import ExportOptions
from autocompress.artifact.samples import deviation, limit_for, pack_samples
from autocompress.core.attribution import Attribution
from autocompress.core.evaluation import Candidate, Metrics
from autocompress.core.files import sha256_of
from autocompress.core.metric import Metric
from autocompress.core.warnings import warn
from autocompress.errors import AutocompressError
from autocompress.formats.base import INPUT, Runtime
from autocompress.formats.table import FORMATS
from autocompress.formats.timing import speedup
from autocompress.study.expected_answers import MOST_DEVIATION, expected_answers, samples_of
from autocompress.study.file_writer import as_arrays
from autocompress.study.robustness import robustness
from autocompress.study.watermarking import Watermarked, watermarked
from autocompress.tensors.named import Inputs

if TYPE_CHECKING:
    from autocompress.study.folder import Description
    from autocompress.study.workbench import Workbench

log = logging.getLogger(__name__)

# Largest mean difference, relative to the largest score, between samples answered alone and together.
BATCH_DEVIATION = 0.02
# Facts of a task about classes, for the card.
BY_CLASS = ("classes", "calibration_error")
# Largest difference between a trial and its exported file on validation data, in units of quality (`Reference.scale`).
MAX_DEVIATION = 0.005


def ship(bench: Workbench, candidate: Candidate, folder: Path, description: Description,
         options: ExportOptions | None = None) -> dict[str, Any]:
    """Write the artefact of the candidate's file, as it was kept or made again, run it, and return the verified facts.
    `options`: who signs it, the key that encrypts it, whose mark it bears, and what the card says beside figures.

    Values of the task's metric are of the test split; latency is the file's beside the original's, interleaved in this
    process.
    AutocompressError when the file deviates from the trial by more than half a point on validation data, or may
    answer differently on another CPU.
    """
    assert candidate.plan is not None and candidate.best is not None
    options = options or ExportOptions()
    file_format = bench.network.writer.format
    marked = None if options.watermark is None else watermarked(bench, candidate, options.watermark)
    data = marked.data if marked else bench.evaluator.file_of(candidate.plan, candidate.best)
    if options.anonymous:
        data = file_format.without_names(data)
    proved, files = file_format.checked(data), file_format.files(data)
    model = next(iter(files))
    runtime = bench.evaluator.open(data)
    metric = description.metric
    _check_batches(runtime, bench.network.calibration[:max(2, bench.network.writer.parity_rows)])
    samples, sample_facts = _samples(bench, candidate, runtime, data, marked)
    task = bench.network.task
    validation = bench.evaluator.validated(runtime, candidate.metrics, description.baseline)[metric.name]
    promised = candidate.metrics[metric.name]
    _check_promise(description, candidate, validation, runtime.flash_bytes or len(data), marked is not None)
    original = bench.evaluator.open(bench.network.writer.original_file)
    graph, before, after = bench.evaluator.original.time_beside(
        {"file": bench.evaluator.open_to_time(data)}, as_arrays(bench.network.example), 100, 5.0
    )
    tested = bench.evaluator.test_samples
    after_score, before_score = (bench.evaluator.score(file, "test", tested) for file in (runtime, original))
    doubts, further = task.losses(before_score, after_score)
    told = {name: further.pop(name) for name in BY_CLASS if name in further}
    told["robustness"] = robustness(bench, original, runtime, description.baseline["macs"])
    quality = {key: of.metrics[one.name] for one in metric.every
               for key, of in ((one.name, after_score), (f"baseline_{one.name}", before_score))}
    facts: dict[str, Any] = {
        **({} if tested is None else {"test_samples": tested}),
        "path": str(folder / model), "trial": candidate.trial, "rung": candidate.best.rung,
        "size_bytes": runtime.flash_bytes or len(data),
        **quality, **after["file"].metrics(),
        "baseline_size_bytes": bench.evaluator.original.size_bytes, **_of_baseline(before.metrics()),
        "speedup": speedup(before, after["file"]),
        "original": {"graph": graph, "note": bench.evaluator.original.note},
        f"validation_{metric.name}": validation, f"promised_{metric.name}": promised, "verified": True,
        "warnings": [msgspec.to_builtins(doubt) for doubt in doubts], **further,
    }
    manifest = {
        "schema": SCHEMA, "version": 1, "study": description.name, "trial": candidate.trial,
        "rung": candidate.best.rung, "plan_fingerprint": candidate.plan.fingerprint,
        "plan": msgspec.to_builtins(candidate.plan), "receipts": msgspec.to_builtins(candidate.receipts),
        "metrics": candidate.metrics, "sources": candidate.best.sources,
        "verified": {k: v for k, v in facts.items() if k not in (
            "path", f"promised_{metric.name}", "warnings", *further)},
        **proved, "format": file_format.name, "model": model,
        "profile": description.settings.profile, "metric": msgspec.to_builtins(metric),
        "budget": msgspec.to_builtins(description.budget), "seed": description.settings.seed,
        "fingerprints": description.fingerprints,
        "versions": versions(("autocompress", "torch", "optuna", "numpy", *file_format.packages)),
        **_inputs(bench, runtime), **_outputs(bench, runtime), "samples": sample_facts,
        "machine": msgspec.to_builtins(this_machine()), "quality": told,
        "licence": options.licence, "intended_use": options.intended_use,
        "attribution": msgspec.to_builtins(_attribution(description, candidate)),
        "peak_memory": {"bytes": candidate.metrics["peak_memory_bytes"],
                        "baseline_bytes": description.baseline["peak_memory_bytes"],
                        "source": candidate.best.sources["peak_memory_bytes"]},
    }
    if options.anonymous:
        require_no_names(files, bench.network.table)
    files |= {SAMPLES: samples, **task.shipped_files()}
    if marked is not None:
        manifest["watermark"] = marked.facts | _cost(bench, candidate, after_score.metrics, metric, tested)
    manifest["latencies"] = _by_device(bench, candidate, description, facts)
    if options.anonymous:
        manifest = anonymous(manifest, bench.network.table)
    written = write_artifact(folder, files, manifest, model_card(manifest, task.name, Running(
        file_format.runtime, file_format.converter, file_format.snippet), metric, options.secret is not None), options)
    for name, content in written.items():
        if (folder / name).read_bytes() != content:
            raise AutocompressError(f"{folder / name} must hold the bytes that were verified, but does not")
    for doubt in doubts:
        warn(log, doubt)
    path = next(folder / name for name in (model, f"{model}{SUFFIX}") if name in written)
    return facts | {"path": str(path), "sha256": {name: sha256_of(folder / name) for name in written}}


def _check_promise(description: Description, candidate: Candidate, validation: float, size: int,
                   is_marked: bool) -> None:
    """AutocompressError where the file is not as good as the trial, to half a point or, of one with a watermark, to a
    standard error; or its watermark takes it out of the budget."""
    metric, promised = description.metric, candidate.metrics[description.metric.name]
    limit = MAX_DEVIATION * description.reference.scale
    if is_marked:  # another file, which chance may find better or worse
        limit = max(limit, candidate.metrics.get(metric.error, 0.0))
    if abs(validation - promised) > limit:
        last = "its watermark costs more than it may: export it without" if is_marked else "please report this"
        raise AutocompressError(
            f"the exported file of trial {candidate.trial} must be as good as the trial, {metric.name} "
            f"{metric.format(promised)} on validation data, but reaches {metric.format(validation)}; nothing was "
            f"written, {last}")
    most = description.budget.size_bytes
    if is_marked and most is not None and candidate.metrics["size_bytes"] <= most < size:
        raise AutocompressError(f"the file must have at most {most:,} bytes, but has {size:,} with its watermark: "
                                "export it without, or another trial")


def _cost(bench: Workbench, candidate: Candidate, marked: Metrics, metric: Metric, tested: int | None
          ) -> dict[str, Metrics]:
    """The task's metrics of a candidate's file on the test split, without its watermark and with it."""
    assert candidate.plan is not None and candidate.best is not None
    bare = bench.evaluator.open(bench.evaluator.file_of(candidate.plan, candidate.best))
    unmarked = bench.evaluator.score(bare, "test", tested).metrics
    return {whose: {one.name: of[one.name] for one in metric.every}
            for whose, of in (("without", unmarked), ("with", marked))}


def _samples(bench: Workbench, candidate: Candidate, runtime: Runtime, data: bytes,
             marked: Watermarked | None) -> tuple[bytes, dict[str, Any]]:
    """The file of samples that ships, and its facts for the manifest; the model's file answered them in a process of
    its own, within limits.

    AutocompressError where it does not compute what the compressed network computes.
    """
    assert candidate.plan is not None and candidate.best is not None
    inputs, file_format = samples_of(bench), bench.network.writer.format
    expected, whose = expected_answers(bench, candidate.plan, candidate.best, inputs, runtime,
                                       None if marked is None else marked.network)
    arrays = as_arrays(inputs)
    outputs = run_isolated(file_format.name, data, arrays).outputs if file_format.name in FORMATS \
        else runtime.run(arrays)  # a user's own object cannot travel
    deviates = deviation(outputs, expected)
    if not deviates <= MOST_DEVIATION:
        raise AutocompressError(
            f"the exported file must answer {len(inputs)} calibration samples as the compressed network does, to "
            f"{MOST_DEVIATION:g} of the largest answer, but deviates by {deviates:.2g}; nothing was written. Please "
            "report this")
    facts = SampleFacts(SAMPLES, len(inputs), "calibration", whose, deviates, limit_for(deviates))
    return pack_samples(arrays, expected), msgspec.to_builtins(facts)


def _attribution(description: Description, candidate: Candidate) -> Attribution | None:
    """What the techniques of the candidate's plan bought, where a search has found that out."""
    saved = description.attribution
    assert candidate.plan is not None
    same = saved is not None and (saved.trial, saved.plan_fingerprint) == (candidate.trial, candidate.plan.fingerprint)
    return saved if same else None


def _inputs(bench: Workbench, runtime: Runtime) -> dict[str, Any]:
    """Under `input` what the network reads, under `inputs` each of several, by name."""
    example, facts = bench.network.example, bench.network.task.input_facts()
    tensors = {INPUT: example} if isinstance(example, Tensor) else dict(example.items())
    every: list[dict[str, Any]] = [
        {"name": name, "shape": ["N", *tensor.shape[1:]], "dtype": str(tensor.dtype).removeprefix("torch."), **facts}
        for name, tensor in tensors.items()]
    for one in every:
        if free := runtime.free_axes.get(one["name"]):
            one["free_axes"] = [*free]
    return {"input": every[0]} if len(every) == 1 else {"inputs": every}


def _outputs(bench: Workbench, runtime: Runtime) -> dict[str, Any]:
    """Under `output` what the network puts out, under `outputs` each of several, by name."""
    task, likelihood = bench.network.task, bench.network.likelihood
    every = [{"name": name, "shape": ["N", *values.shape[1:]], **task.output_facts(likelihood, name)}
             for name, values in runtime.run(as_arrays(bench.network.example)).items()]
    return {"output": every[0]} if len(every) == 1 else {"outputs": every}


def _check_batches(runtime: Runtime, inputs: Inputs) -> None:
    """AutocompressError where the file answers samples together and one by one differently. Integers may round
    otherwise where sums of floats differ in their last bits."""
    together = runtime.run(as_arrays(inputs))
    singly = [runtime.run(as_arrays(one)) for one in torch.split(inputs, 1)]  # type: ignore[no-untyped-call]
    difference = max(
        float(np.abs(np.concatenate([one[name] for one in singly]) - values).mean()
              / max(float(np.abs(values).max()), 1e-12)) for name, values in together.items())
    if not difference <= BATCH_DEVIATION:
        raise AutocompressError(
            f"the exported file must answer a sample alone as it does among {len(inputs)} (to {BATCH_DEVIATION:g} "
            f"relative), but differs by {difference:.2g}; nothing was written. Please report this")


def _of_baseline(metrics: Metrics) -> Metrics:
    return {f"baseline_{name}": value for name, value in metrics.items()}


def _by_device(bench: Workbench, candidate: Candidate, description: Description,
               facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Latency of the original and of the candidate on each device, in milliseconds, and its source; where it is
    measured, both as they were timed together."""
    assert candidate.best is not None
    return {device.id: {"source": "measured", "ms": facts["latency_ms"], "baseline_ms": facts["baseline_latency_ms"]}
            if device.latency == "measured" else
            {"source": candidate.best.sources.get(name, "estimated"), "ms": candidate.metrics[name],
             "baseline_ms": description.baseline[name]}
            for name, device in bench.evaluator.profile.latencies.items()}
