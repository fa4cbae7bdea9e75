"""A search that starts where another one ended: nothing asked twice, old plans first, weights inherited."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patterns import Arrays, network, patterns, trained_on

import autocompress
from autocompress.backend.sensitivity import fisher as sensitivity
from autocompress.backend.statistics import tensor_cache as store
from autocompress.core.plan import Receipt, Step
from autocompress.errors import InputError
from autocompress.search.samplers.initial_trials import WARM
from autocompress.space.space import build_space
from autocompress.space.spec import load_space
from autocompress.study.folder import read_description
from autocompress.study.result import SearchResult
from autocompress.study.sensitivity import options


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return patterns(noise=2.0)


@pytest.fixture(scope="module")
def subject(arrays: Arrays) -> dict[str, Any]:
    """A trained network and its data, as arguments."""
    return {"model": trained_on(arrays, 60), "data": arrays}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of their own: what is measured is measured here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def first(subject: dict[str, Any], cache: None, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return autocompress.search(**subject, budget="4.2kB", trials=4, epochs=2, seed=3,
                               out=tmp_path_factory.mktemp("warm") / "first")


def _contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def _inherited(result: SearchResult) -> list[Receipt]:
    return [receipt for candidate in result.candidates for evaluation in candidate.evaluations
            for receipt in evaluation.receipts if receipt.technique == "inherit"]


@pytest.mark.parametrize("budget", ["3.5kB", pytest.param("6kB", marks=pytest.mark.slow)])
def test_another_budget_starts_where_the_study_ended(first: SearchResult, subject: dict[str, Any], tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch, budget: str) -> None:
    before = _contents(first.folder)
    monkeypatch.setattr(store, "_write", lambda _, key, *__: pytest.fail(f"{key} is kept"))
    monkeypatch.setattr(sensitivity, "_measured", lambda *_: pytest.fail("the table is kept"))
    result = autocompress.search(**subject, from_study=first.folder, budget=budget, trials=4, out=tmp_path / "second")
    assert _contents(first.folder) == before

    stored = read_description(result.folder)
    settings = stored.settings
    assert (settings.seed, settings.epochs, str(settings.from_study)) == (3, 2, str(first.folder))
    assert result.best is not None and result.best.metrics["size_bytes"] <= (stored.budget.size_bytes or 0)
    assert {"uniform", "SolverSampler"} <= {c.origin for c in result.candidates}
    if budget == "6kB":  # in the smaller one the old plans that fit are among those that are always tried
        assert result.candidates[0].origin == WARM
    old = {c.plan.fingerprint for c in first.candidates if c.plan is not None}
    assert old & {c.plan.fingerprint for c in result.candidates if c.plan is not None}

    inherited = _inherited(result)
    trained = {path.name.split("-")[0] for study in (first, result) for path in (study.folder / "weights").iterdir()}
    assert inherited and {receipt.facts["from"] for receipt in inherited} <= trained
    assert any(receipt.facts["layers"] for receipt in inherited)
    for receipt in inherited:
        better = receipt.facts["inherited_divergence"] < receipt.facts["own_divergence"]
        assert bool(receipt.facts["layers"]) is better
    kept, taken = (study.folder / "teacher" / "teacher-1.safetensors" for study in (first, result))
    assert taken.read_bytes() == kept.read_bytes()


def test_another_device_asks_only_for_what_it_alone_can_do(first: SearchResult, subject: dict[str, Any], tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    bench = first.bench
    of_host = [
        step for step, _ in options(build_space(bench.network.table, load_space("default"), bench.evaluator.profile))
    ]
    written: list[str] = []
    measured_steps: list[Step] = []
    write, measure = store._write, sensitivity._measured
    monkeypatch.setattr(store, "_write", lambda where, key, *rest: (written.append(key), write(where, key, *rest)))
    monkeypatch.setattr(sensitivity, "_measured",
                        lambda c, steps, *how: (measured_steps.extend(steps), measure(c, steps, *how))[1])
    result = autocompress.search(**subject, from_study=first.folder, profile="raspberry-pi-4", trials=1,
                                 out=tmp_path / "second")
    assert result.best is not None and read_description(result.folder).settings.profile == "raspberry-pi-4"
    assert [step for step in measured_steps if step in of_host] == []
    assert all("sensitivities-" in key for key in written)


def test_a_search_is_the_same_for_a_seed(first: SearchResult, subject: dict[str, Any], tmp_path: Path) -> None:
    """Where latency is estimated: readings of a clock are of their moment, and what is faster there is tried first."""
    one, other = (autocompress.search(**subject, from_study=str(first.folder), budget="3.5kB", trials=3,
                                      profile="raspberry-pi-4", out=tmp_path / name) for name in ("one", "other"))
    assert [c.plan for c in one.candidates] == [c.plan for c in other.candidates]
    assert [[e.metrics["accuracy"] for e in c.evaluations] for c in one.candidates] == \
        [[e.metrics["accuracy"] for e in c.evaluations] for c in other.candidates]
    assert _inherited(one) == _inherited(other)
    assert one.artifact is not None and other.artifact is not None
    assert Path(one.artifact["path"]).read_bytes() == Path(other.artifact["path"]).read_bytes()


def test_within_one_study_later_candidates_inherit_from_earlier_ones(first: SearchResult) -> None:
    assert read_description(first.folder).settings.from_study is None
    mine = {path.name.split("-")[0] for path in (first.folder / "weights").iterdir()}
    assert _inherited(first) and all(receipt.facts["from"] in mine for receipt in _inherited(first))


@pytest.mark.slow
def test_processes_inherit_from_the_earlier_study_too(first: SearchResult, subject: dict[str, Any],
                                                      tmp_path: Path) -> None:
    result = autocompress.search(**subject, from_study=first.folder, budget="4kB", trials=2, jobs=2,
                                 out=tmp_path / "second")
    assert result.to_dict()["trials"]["failed"] == 0 and _inherited(result)


@pytest.mark.slow
def test_it_goes_on_by_resume_and_out_alone_also_without_the_study_it_came_from(
        first: SearchResult, subject: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = shutil.copytree(first.folder, tmp_path / "source")
    started = autocompress.search(**subject, from_study=source, budget="4kB", max_drop="90%", trials=1,
                                  out=tmp_path / "second")
    before = [c.plan for c in started.candidates]
    again = autocompress.search(**subject, resume=True, trials=2, out=tmp_path / "second")
    assert [c.plan for c in again.candidates][:1] == before and len(again.candidates) == 2
    assert again.view().budget == started.view().budget and again.view().budget.max_drop == 0.9
    assert str(read_description(tmp_path / "second").settings.from_study) == str(source)
    shutil.rmtree(source)
    caplog.clear()
    again = autocompress.search(**subject, resume=True, trials=3, out=tmp_path / "second")
    assert len(again.candidates) == 3 and "going on without the study" in caplog.text


def _without_database(folder: Path) -> None:
    (folder / "study.db").unlink()


def _with_a_torn_database(folder: Path) -> None:
    (folder / "study.db").write_bytes(b"SQLite format 3\x00" + b"torn" * 500)


def _with_a_torn_description(folder: Path) -> None:
    (folder / "study.json").write_text('{"version": 1, "name')


@pytest.mark.parametrize(("damage", "told"), [
    (shutil.rmtree, "must be the folder of a study"), (_without_database, "study.db is gone"),
    (_with_a_torn_database, "must be a usable study database"), (_with_a_torn_description, "is damaged"),
])
def test_a_study_that_cannot_be_read_is_refused(first: SearchResult, subject: dict[str, Any], tmp_path: Path,
                                                damage: Any, told: str) -> None:
    source = shutil.copytree(first.folder, tmp_path / "source")
    damage(source)
    with pytest.raises(InputError, match=told) as caught:
        autocompress.search(**subject, from_study=source, budget="4kB", out=tmp_path / "second")
    assert str(caught.value).startswith("--from (from_study) must be a study") and "without --from" in str(caught.value)
    assert not (tmp_path / "second").exists()


def test_another_network_other_data_and_contradictions_are_refused(first: SearchResult, subject: dict[str, Any],
                                                                   tmp_path: Path) -> None:
    out = tmp_path / "second"
    x, y = subject["data"]
    with pytest.raises(InputError, match=r"the model must be the one .* give the same one"):
        autocompress.search(**subject | {"model": network().eval()}, from_study=first.folder, out=out)
    with pytest.raises(InputError, match=r"the data must be the one .* split with its seed 3"):
        autocompress.search(**subject | {"data": (x + 1, y)}, from_study=first.folder, out=out)
    with pytest.raises(InputError, match="the data must be the one"):
        autocompress.search(**subject, from_study=first.folder, seed=4, out=out)
    with pytest.raises(InputError, match=r"model must be given, because .* from a Python object"):
        autocompress.search(from_study=first.folder, budget="4kB", out=out)
    with pytest.raises(InputError, match=r"data must be given, because .* from a Python object"):
        autocompress.search(model=subject["model"], from_study=first.folder, budget="4kB", out=out)
    with pytest.raises(InputError, match="must be left out with --resume"):
        autocompress.search(**subject, from_study=first.folder, resume=True, out=out)
    with pytest.raises(InputError, match="must be another folder"):
        autocompress.search(**subject, from_study=first.folder, force_new_study=True, out=first.folder)
    assert not out.exists() and first.best is not None
