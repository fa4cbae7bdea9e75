"""Verifying an artefact beside the study that it is of: against the rebuilt network, and on the test split."""

from __future__ import annotations

from pathlib import Path

from autocompress.artifact.contents import Contents
from autocompress.artifact.samples import deviation, limit_for
from autocompress.artifact.verify import Verification
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.errors import InputError, TrialError
from autocompress.study.expected_answers import MOST_DEVIATION, NETWORK, expected_answers
from autocompress.study.export_candidate import MAX_DEVIATION
from autocompress.study.file_writer import as_arrays
from autocompress.study.folder import Description, read_description
from autocompress.study.process_state import kept_surroundings
from autocompress.study.result import SearchResult, open_study

# Samples of the calibration data that the file and the rebuilt network both answer.
SAMPLES = 16


def verify_with_study(verification: Verification, study: Path, trust_code: bool) -> None:
    """Add the checks `study`, `network` and `metric` to those of an artefact that was read.

    Args:
        verification: the checks so far.
        study: folder of the study.
        trust_code: run the Python files that it was made from.

    Raises:
        InputError: where the study cannot be loaded.
    """
    contents, description = verification.contents, read_description(study)
    assert contents is not None
    if not verification.run("study", lambda: _same_study(contents, description)):
        return
    result = open_study(study, load_network=True, trust_code=trust_code)
    with kept_surroundings():
        if verification.run("network", lambda: _network(contents, result)):
            verification.run("metric", lambda: _metric(contents, result))


def _same_study(contents: Contents, description: Description) -> str:
    for what in ("model", "data"):
        then, now = contents.manifest.fingerprints.get(what), description.fingerprints.get(what)
        if then != now:
            raise InputError(f"the {what} of the study must be the one that the artefact was made from (fingerprint "
                             f"{then}), but is another ({now})")
    return f"made from the model and data of {description.name}"


def _evaluation(contents: Contents, result: SearchResult) -> tuple[Candidate, Evaluation]:
    """The candidate of the artefact, and the evaluation that its file comes from."""
    manifest = contents.manifest
    candidate = result.candidate(manifest.trial)
    evaluation = next((one for one in candidate.evaluations if one.rung == manifest.rung), None)
    if candidate.plan is None or evaluation is None or candidate.plan.fingerprint != manifest.plan_fingerprint:
        raise InputError(f"trial {manifest.trial} of the study must have the plan {manifest.plan_fingerprint} of the "
                         "artefact, but has another, or was not scored at that rung")
    return candidate, evaluation


def _network(contents: Contents, result: SearchResult) -> str:
    candidate, evaluation = _evaluation(contents, result)
    bench = result.bench
    inputs = bench.network.calibration[:SAMPLES]
    try:
        runtime = bench.evaluator.open(contents.model)
        assert candidate.plan is not None
        expected, whose = expected_answers(bench, candidate.plan, evaluation, inputs, runtime)
        deviates = deviation(runtime.run(as_arrays(inputs)), expected)
    except TrialError as error:
        raise InputError(str(error)) from None
    if whose != NETWORK:
        return "skipped: the study no longer has the weights of this trial"
    facts = contents.manifest.samples
    is_marked = contents.manifest.watermark is not None  # the rebuilt network is not
    limit = min(MOST_DEVIATION, limit_for(facts.deviation)) if facts and not is_marked else MOST_DEVIATION
    if not deviates <= limit:
        raise InputError(f"the file must answer {len(inputs)} calibration samples as the rebuilt network does, to "
                         f"{limit:.3g} of the largest answer, but deviates by {deviates:.3g}")
    return f"{len(inputs)} calibration samples are answered as by the rebuilt network, to {deviates:.2g}"


def _metric(contents: Contents, result: SearchResult) -> str:
    bench, metric = result.bench, result.metric
    verified = contents.manifest.verified
    promised, tested = verified.get(metric.name), verified.get("test_samples")
    try:
        score = bench.evaluator.score(bench.evaluator.open(contents.model), "test",
                                      None if tested is None else int(tested))
        value = score.metrics[metric.name]
    except TrialError as error:
        raise InputError(str(error)) from None
    scale = result.reference.scale
    if promised is None or abs(value - promised) > MAX_DEVIATION * scale:
        said = "none" if promised is None else metric.format(promised)
        raise InputError(f"{metric.name} on the test split must be as in the manifest, {said}, but is "
                         f"{metric.format(value)}")
    return f"{metric.name} {metric.format(value)} on the test split, {metric.format(promised)} at export"
