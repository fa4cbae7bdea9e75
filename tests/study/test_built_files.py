"""Files of evaluated candidates, kept by content."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.core.budget import Budget
from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.metric import Reference
from autocompress.core.plan import Plan, Step
from autocompress.core.store import FILES, FolderStore, Store
from autocompress.hardware.profile import load_profile
from autocompress.study import built_files
from autocompress.study.built_files import Trimmer, keep_file, kept_file, own_files
from autocompress.study.workbench import Workbench
from autocompress.tasks.classification.metric import ACCURACY
from autocompress.testing.networks import NETWORKS, task_data

BUDGET = Budget(size_bytes=10**6)


def _candidate(store: Store, trial: int, accuracy: float) -> Candidate:
    metrics = {"accuracy": accuracy, "accuracy_error": 1e-4, "cross_entropy": 1 - accuracy,
               "size_bytes": 1000.0 - 100 * accuracy, "latency_ms": 1.0, "macs": 1.0}
    file = keep_file(store, f"{trial}".encode(), ".onnx")
    return Candidate(trial=trial, status="complete", evaluations=(
        Evaluation(rung=0, metrics=metrics, sources={}, file=file),))


def test_a_file_is_what_was_kept_or_nothing(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    digest = keep_file(store, b"a model", ".onnx")
    assert kept_file(store, digest, ".onnx") == b"a model"
    (key,) = own_files(store).values()
    store.put(key, b"another")
    assert kept_file(store, digest, ".onnx") is None
    assert kept_file(store, "", ".onnx") is None and kept_file(store, "0" * 64, ".onnx") is None


def test_the_front_stays_and_so_does_what_is_no_ones_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(built_files, "MOST", 4)
    store = FolderStore(tmp_path)
    everyone = [_candidate(store, trial, 0.5 + trial / 100) for trial in range(8)]  # each dominates the one before
    under_way = keep_file(store, b"under way", ".onnx")
    mine = tmp_path / FILES / "mine.onnx"
    mine.write_bytes(b"the user's")
    trimmer = Trimmer(store, BUDGET, Reference(ACCURACY, 1.0))
    trimmer.look(lambda: everyone)
    best = everyone[-1].best
    assert best is not None
    assert set(own_files(store)) == {best.file, under_way}
    looks: list[int] = []
    trimmer.look(lambda: looks.append(1) or everyone)  # type: ignore[func-returns-value]
    assert not looks, "few files need no look"
    trimmer.end(everyone)
    assert [*own_files(store)] == [best.file] and mine.is_file()


def test_what_was_evaluated_is_not_compressed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = NETWORKS["chain"]
    bench = Workbench(chain.make(), task_data(chain.input_shape), load_profile("host"), seed=0, folder=tmp_path,
                      epochs=1)
    plan = Plan.of([Step("1.0", "quantize", {"weight_bits": 4, "activation_bits": 8})])
    evaluation = bench.evaluator.evaluate(plan, 0)
    again = bench.network.write(bench.trainer.rebuild(plan, 0)).data
    monkeypatch.setattr(bench.trainer, "rebuild", lambda *_: pytest.fail("the file was kept"))
    assert bench.evaluator.file_of(plan, evaluation) == again and len(again) == evaluation.metrics["size_bytes"]
    monkeypatch.undo()
    bench.store.remove(*own_files(bench.store).values())
    assert bench.evaluator.file_of(plan, evaluation) == again
