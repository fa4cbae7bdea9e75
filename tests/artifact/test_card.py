"""The model card: its sections, and its snippets as they run in the artefact's folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from shipping import quantised, shipped
from test_protection import key_pair

from autocompress.artifact import card_sections
from autocompress.artifact.options import ExportOptions
from autocompress.core.attribution import Attribution, TechniqueShare
from autocompress.formats.base import Arrays, Runtime
from autocompress.study.robustness import disturbances, disturbed_runs, robustness
from autocompress.tasks.classification.calibration import calibration_error, confidences
from autocompress.tasks.classification.metric import ACCURACY
from autocompress.tasks.classification.sanity_checks import ClassAnswers, quality
from autocompress.testing.techniques import workbench


def snippets(folder: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.S)


@pytest.mark.parametrize("which", ["artifact", "pictures"])
def test_the_cards_snippets_run(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    for code in snippets(folder, "python"):
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout, done.stderr
    assert len(snippets(folder, "python")) == 2 and "autocompress verify ." in (folder / "README.md").read_text("utf-8")


def test_the_card_says_who_pays_and_how_robust_it_is(artifact: Path, pictures: Path) -> None:
    card, manifest = (artifact / "README.md").read_text("utf-8"), json.loads((artifact / "manifest.json").read_bytes())
    for heading in ("## Who pays", "## Disturbed inputs", "## Run it", "## With autocompress", "## Licence"):
        assert heading in card
    told = manifest["quality"]
    assert sum(row["samples"] for row in told["classes"]) == 64
    assert set(told["calibration_error"]) == {"original", "file"}
    whole = sum(row["samples"] * row["file"] for row in told["classes"]) / 64
    assert whole == pytest.approx(manifest["verified"]["accuracy"])
    assert [row["disturbance"].split(",")[0] for row in told["robustness"]["rows"]] == ["none", "normal noise"]
    assert told["robustness"]["rows"][0]["file"] == manifest["verified"]["accuracy"]
    rows = json.loads((pictures / "manifest.json").read_bytes())["quality"]["robustness"]["rows"]
    assert [row["disturbance"].split(",")[0] for row in rows] == ["none", "normal noise", "Gaussian blur", "contrast"]
    assert "expected calibration error" in card and "peak memory of activations, estimated" in card


class Counting(Runtime):
    """A file that counts the samples that it runs on."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self.samples = runtime, 0

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        self.samples += len(next(iter(inputs.values())))
        return self._runtime.run(inputs)


@pytest.mark.parametrize("macs", [1.0, 2e9])
def test_the_time_of_disturbed_samples_is_reserved_by_their_number(macs: float) -> None:
    bench = workbench("mlp")
    original = bench.evaluator.open(bench.network.writer.original_file)
    file = Counting(original)
    robustness(bench, original, file, macs)
    assert disturbed_runs(bench, macs) == file.samples > 0


def test_the_users_words_stand_in_manifest_and_card(tmp_path: Path, artifact: Path) -> None:
    private, _ = key_pair(tmp_path, "own")
    (tmp_path / "aes").write_text("ab" * 32)
    bench = workbench("mlp")
    options = ExportOptions.of(private, tmp_path / "aes", licence=" MIT ", intended_use="Sorting letters.\n")
    folder = shipped(bench, quantised(bench), tmp_path / "a", options=options)
    card, manifest = (folder / "README.md").read_text("utf-8"), json.loads((folder / "manifest.json").read_bytes())
    assert "* Licence: MIT\n" in card and "* Intended use: Sorting letters.\n" in card
    assert manifest["licence"] == "MIT" and manifest["intended_use"] == "Sorting letters."
    assert "## Run it" not in card and "--decrypt secret.key" in card, "the file runs with autocompress alone"
    assert "export with `--licence TEXT`" in (artifact / "README.md").read_text("utf-8")


def test_attribution_stands_in_the_card_where_it_is_known() -> None:
    share = TechniqueShare(technique="quantize", sites=3, without={"size_bytes": 400.0, "macs": 1.0}, alone={})
    result = Attribution(trial=1, plan_fingerprint="x", original={"size_bytes": 400.0, "macs": 1.0},
                         estimated={"size_bytes": 100.0, "macs": 1.0}, calibrated={}, techniques=(share,), steps=())
    text = card_sections.attribution(msgspec.to_builtins(result), ACCURACY)
    assert "| quantize | 3 |" in text and "size saved" in text
    assert card_sections.attribution(None, ACCURACY) == ""


def test_a_section_without_facts_is_left_out_and_cells_stay_cells() -> None:
    assert card_sections.by_class({}) == "" and card_sections.robustness({}, ACCURACY) == ""
    rows = [{"class": f"a|{i}\nb", "samples": 2, "original": 1.0, "file": i / 20} for i in range(20)]
    text = card_sections.by_class({"classes": rows})
    assert "| a/0 b | 2 | 100.00% | 0.00% | -100.0 points |" in text and "The other 10" in text and "a/19" not in text


def test_the_calibration_error_is_that_of_its_source() -> None:
    """Against a plain count in bins."""
    rng = np.random.default_rng(0)
    confidence, right = rng.uniform(0, 1, 500), rng.uniform(0, 1, 500) < 0.7
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert calibration_error(confidence, right) == pytest.approx(total)
    assert calibration_error(np.ones(4), np.ones(4, bool)) == 0


def test_confidences_are_probabilities_whatever_outputs_mean() -> None:
    scores = np.array([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]])
    expected = (np.exp(scores) / np.exp(scores).sum(1, keepdims=True)).max(1)
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    for outputs, meaning in ((scores, "scores"), (probabilities, "probabilities"),
                             (np.log(probabilities), "log-probabilities")):
        assert confidences(outputs, meaning) == pytest.approx(expected)  # type: ignore[arg-type]
    assert confidences(np.array([[0.2, 0.9]]), "independent probabilities") == pytest.approx([0.9])


def test_classes_that_the_split_lacks_are_not_told() -> None:
    answers = ClassAnswers(np.array([0, 0, 2]), np.array([0, 1, 2]), 3, ("a", "b", "c"))
    document: dict[str, Any] = quality(answers, answers)
    assert [row["class"] for row in document["classes"]] == ["a", "c"] and "calibration_error" not in document
    assert document["classes"][0] == {"class": "a", "samples": 2, "original": 0.5, "file": 0.5}


def test_disturbances_are_the_same_each_time_and_leave_tokens_alone() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(4, 3, 12, 12)).astype(np.float32)
    kinds = disturbances({"x": pictures, "tokens": np.zeros((4, 3), np.int64)})
    assert next(iter(kinds)) == "none" and kinds["none"]() == {} and len(kinds) == 4
    for make in [*kinds.values()][1:]:
        first, second = (make()["x"](pictures) for _ in range(2))
        assert np.array_equal(first, second) and first.dtype == np.float32 and first.shape == pictures.shape
        assert not np.array_equal(first, pictures) and "tokens" not in make()
    assert [*disturbances({"tokens": np.zeros((4, 3), np.int64)})] == ["none"]
    assert len(disturbances({"x": np.zeros((4, 3), np.float32)})) == 2, "no picture is blurred that is none"
