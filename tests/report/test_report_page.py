"""The page: whole, safe and alive in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from autocompress.core.evaluation import Candidate
from autocompress.report import html
from autocompress.report.html import write_report
from autocompress.report.sections import verdict
from autocompress.report.text import format_factor
from autocompress.report.view import StudyView

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--virtual-time-budget=10000", "--enable-logging=stderr"]


class _Page(HTMLParser):
    """Elements with their attributes, the text outside scripts and styles, and the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts = "", [""]
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data


@pytest.fixture(scope="module")
def page(view: StudyView, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(view, tmp_path_factory.mktemp("report"))


def test_the_folder_holds_three_files(page: Path) -> None:
    assert sorted(p.name for p in page.parent.iterdir()) == ["pareto.html", "trials.csv", "trials.json"]


def test_names_are_text_and_never_markup(view: StudyView, page: Path) -> None:
    parsed = _Page(page.read_text(encoding="utf-8"))
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("script") == 3
    assert "img" not in tags
    assert "<script>" in view.name and view.name in parsed.text
    assert "<script>alert(1)</script>" in parsed.text
    assert "stage.<b>bold</b>&amp;" in parsed.text
    figures = json.loads(parsed.scripts[1])
    assert sorted(figures) == ["pareto-latency_ms", "pareto-macs", "pareto-size_bytes", "plan", "progress", "timings"]
    assert "dataset.owned" not in "".join(parsed.scripts)


def test_the_page_asks_the_network_for_nothing(page: Path) -> None:
    parsed = _Page(page.read_text(encoding="utf-8"))
    policy = next(a["content"] for _, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'")
    sources = [value for _, a in parsed.elements for key, value in a.items() if key in ("src", "href")]
    assert sources == ["data:,", "trials.csv", "trials.json"]


def test_the_headline_is_the_exported_file(view: StudyView, page: Path) -> None:
    text = _Page(page.read_text(encoding="utf-8")).text
    assert view.artifact is not None
    assert f"{100 * view.artifact['accuracy']:.2f}%" in text
    ratio = view.baseline["size_bytes"] / view.artifact["size_bytes"]
    assert format_factor(ratio, "smaller", "larger") in text
    assert "verified in its runtime" in text


def test_a_latency_is_the_files_only_where_it_was_measured_here(view: StudyView, tmp_path: Path) -> None:
    best = view.trial(view.best)
    assert best is not None
    for source, shown in (("measured", True), ("estimated", False)):
        evaluations = tuple(msgspec.structs.replace(e, sources={**e.sources, "latency_ms": source})
                            for e in best.evaluations)
        there = msgspec.structs.replace(view, sources={**view.sources, "latency_ms": source}, candidates=tuple(
            msgspec.structs.replace(c, evaluations=evaluations) if c.trial == view.best else c
            for c in view.candidates))
        text = _Page(write_report(there, tmp_path / source).read_text(encoding="utf-8")).text
        assert ("3.2× faster" in text) is shown


def test_the_file_of_another_trial_is_not_the_bests(view: StudyView, tmp_path: Path) -> None:
    assert view.artifact is not None and view.best is not None
    other = msgspec.structs.replace(view, artifact={**view.artifact, "trial": view.best + 1, "accuracy": 0.12345})
    text = _Page(write_report(other, tmp_path).read_text(encoding="utf-8")).text
    assert "not exported yet" in text and "12.3" not in text


def test_an_unverified_file_is_said_to_be_one(view: StudyView, tmp_path: Path) -> None:
    assert view.artifact is not None
    doubtful = msgspec.structs.replace(view, artifact={**view.artifact, "verified": False})
    assert "not verified" in _Page(write_report(doubtful, tmp_path).read_text(encoding="utf-8")).text


def test_without_a_best_the_page_says_what_came_nearest(view: StudyView, tmp_path: Path) -> None:
    candidates = tuple(c for c in view.candidates if c.status != "complete")
    none = msgspec.structs.replace(view, candidates=candidates, front=(), best=None, parts=(), artifact=None)
    text = _Page(write_report(none, tmp_path).read_text(encoding="utf-8")).text
    assert "No trial is inside the budget." in text
    nearest = r"Nearest: trial \d+ misses the (\w+ bound by [\d.]+%|allowed accuracy drop by [\d.]+ points)\."
    assert re.search(nearest, text)


def _browse(page: Path, profile: Path) -> tuple[str, list[str]]:
    assert BROWSER is not None
    done = subprocess.run([BROWSER, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()],
                          capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome on the PATH")
def test_a_browser_draws_every_trial_and_runs_nothing_else(view: StudyView, page: Path, tmp_path: Path) -> None:
    dom, console = _browse(page, tmp_path)
    assert console == []
    body = next(attributes for tag, attributes in _Page(dom).elements if tag == "body")
    assert body == {"data-trials": str(len(view.candidates)), "data-points": str(len(view.candidates))}


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome on the PATH")
def test_a_browser_opens_a_study_without_results(view: StudyView, tmp_path: Path) -> None:
    bare = msgspec.structs.replace(view, candidates=view.candidates[8:9], front=(), best=None, baseline={}, parts=(),
                                   untouched={}, artifact=None, timings={})
    dom, console = _browse(write_report(bare, tmp_path / "report"), tmp_path / "profile")
    assert console == []
    body = next(attributes for tag, attributes in _Page(dom).elements if tag == "body")
    assert body == {"data-trials": "1", "data-points": "1"}


def test_the_verdict_says_why_the_best_is_not_the_most_accurate(view: StudyView) -> None:
    def with_metrics(candidate: Candidate, **metrics: float) -> Candidate:
        last = candidate.evaluations[-1]
        return replace(candidate, evaluations=(replace(last, metrics=last.metrics | metrics),))

    shown = view.trial(view.best)
    assert shown is not None and "cross-entropy" not in verdict(view)
    other = next(c for c in view.candidates if view.feasible(c) and c is not shown)
    higher = shown.metrics["accuracy"] + 0.002
    rows = {shown.trial: with_metrics(shown, accuracy_error=0.0036, cross_entropy=0.21),
            other.trial: with_metrics(other, accuracy=higher, accuracy_error=0.0036, cross_entropy=0.22)}
    told = verdict(replace(view, candidates=tuple(rows.get(c.trial, c) for c in view.candidates)))
    assert f"trial {shown.trial} (the least cross-entropy of those within ± 0.36%" in told
    assert f"of the best accuracy, {100 * higher:.2f}%)" in told


def test_the_page_of_thousands_of_trials_is_bounded_and_holds_the_front(view: StudyView,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.report.view.MOST_DRAWN", 60)
    monkeypatch.setattr("autocompress.report.view.MOST_IN_DETAIL", 40)

    def of(times: int) -> StudyView:
        count = len(view.candidates)
        copies = [replace(c, trial=c.trial + i * count, duplicate_of=None) for i in range(times)
                  for c in view.candidates]
        return replace(view, candidates=tuple(copies))

    pages = {times: html.page(of(times), scripts=False) for times in (10, 40)}
    large = of(40)
    assert len(large.drawn) == 60 and {*view.front, view.best} <= {c.trial for c in large.drawn}
    assert max(c.trial for c in large.drawn) > 0.95 * len(large.candidates)
    assert "60 of 1,680 trials are drawn: the whole front" in pages[40] and "trials.csv holds all" in pages[40]
    more = len(large.candidates) - len(of(10).candidates)
    assert len(pages[40]) - len(pages[10]) < 60 * more, "what grows is the line of the best so far"
    assert "Every trial is drawn" in html.page(view, scripts=False)
