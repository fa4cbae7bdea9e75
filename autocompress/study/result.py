"""A study as its user sees it: front, best, plots, export, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from autocompress.artifact.folder import artifact_fault
from autocompress.artifact.options import ExportOptions
from autocompress.core.attribution import Attribution
from autocompress.core.evaluation import LATENCY, Candidate
from autocompress.core.front import best, front
from autocompress.core.layer import Part
from autocompress.core.metric import Metric, Reference
from autocompress.core.plan import Plan
from autocompress.core.sensitivity import SensitivityTable
from autocompress.core.store import FolderStore
from autocompress.core.warnings import Warned, merged
from autocompress.errors import InputError
from autocompress.estimate import flatten
from autocompress.report.view import StudyView
from autocompress.search.databases import storage_url
from autocompress.search.study_store import StudyStore
from autocompress.search.trial_status import judged
from autocompress.space.plan_sensitivity import plan_sensitivity
from autocompress.study.attribution import attribute
from autocompress.study.built_files import at_hand_here
from autocompress.study.folder import ARTIFACT, REPORT, Description, read_description, read_store, write_description
from autocompress.study.lock import locked
from autocompress.techniques.apply import Techniques, at_hand, resolve, untouched
from autocompress.techniques.table import TECHNIQUES

if TYPE_CHECKING:
    import pandas as pd

    from autocompress.space.projection import Projection
    from autocompress.study.workbench import Workbench


class SearchResult:
    """The trials of one study, with their front, the best candidate and the exported file.

    Tables are pandas DataFrames; values of the task's metric are of the validation split, except those of the exported
    artefact, which are of the test split. `autocompress.search` and `autocompress.open_study` make it.

    Args:
        folder: of the study.
        description: what `study.json` says.
        store: the study's trials.
        bench: the network and its data, where trials are to be exported.
        make_bench: makes them when they are asked for, in place of `bench`.
        techniques: those of the study, where they are not those of `bench`.
    """

    def __init__(self, folder: Path, description: Description, *, store: StudyStore, bench: Workbench | None = None,
                 make_bench: Callable[[], Workbench] | None = None, techniques: Techniques = TECHNIQUES) -> None:
        self.folder, self._description, self._store, self._bench = Path(folder), description, store, bench
        self._make_bench, self._techniques = make_bench, techniques if bench is None else bench.network.techniques
        self._candidates: list[Candidate] | None = None
        self.seconds = description.timings.get("search", 0.0)

    @property
    def candidates(self) -> list[Candidate]:
        """Every trial with its plan, evaluations and status, as read when first asked for, or since `refresh`."""
        if self._candidates is None:
            d = self._description
            self._candidates = judged(self._store.candidates(), d.budget, d.reference)
        return list(self._candidates)

    def refresh(self) -> None:
        """Forget what was read of the study: another process may have gone on with it."""
        self._candidates = None

    @property
    def best(self) -> Candidate | None:
        """The candidate inside the budget that is best in the task's metric, or None; where several drivers share the
        study, of those whose file or weights are here."""
        d = self._description
        everyone = self.candidates
        if d.settings.storage is not None:
            everyone = judged(at_hand_here(everyone, FolderStore(self.folder)), d.budget, d.reference)
        return best(everyone, d.budget, d.reference)

    @property
    def front(self) -> pd.DataFrame:
        """One row for each candidate of the Pareto front, by size."""
        from autocompress.report.tables import front_frame  # needs pandas

        return front_frame(self.view())

    @property
    def trials(self) -> pd.DataFrame:
        """One row for each trial."""
        from autocompress.report.tables import trials_frame  # needs pandas

        return trials_frame(self.view())

    @property
    def baseline(self) -> dict[str, float]:
        """The original's metrics on the validation split."""
        return dict(self._description.baseline)

    @property
    def metric(self) -> Metric:
        """The task's metric."""
        return self._description.metric

    @property
    def reference(self) -> Reference:
        """The task's metric with the original's value on the validation split."""
        return self._description.reference

    @property
    def bench(self) -> Workbench:
        """The network and its data on their workbench. InputError where the study was opened without them."""
        if self._bench is None and self._make_bench is not None:
            self._bench = self._make_bench()
        if self._bench is None:
            raise InputError("exporting needs the network: this study was opened without it. "
                             "Use open_study(folder, model=…, data=…), or `autocompress export`")
        return self._bench

    @property
    def artifact(self) -> dict[str, Any] | None:
        """What was exported last into the study's own folder: path, trial, size_bytes, latency_ms, the
        task's metric …"""
        return self._description.artifact

    def candidate(self, trial: int | str = "best") -> Candidate:
        """One trial.

        Args:
            trial: its number, or `"best"`.

        Raises:
            InputError: where there is none such.
        """
        numbered = {str(c.trial): c for c in self.candidates}
        candidate = self.best if trial == "best" else numbered.get(str(trial))
        if candidate is None:
            numbers = [c.trial for c in self.candidates]
            span = f"0 to {max(numbers)}" if numbers else "(none yet)"
            what = "there is no trial inside the budget" if trial == "best" else f"there is no trial {trial!r}"
            raise InputError(f"a trial must be a number from {span} or `best`, but {what}")
        return candidate

    def export(self, path: Path | str | None = None, trial: int | str = "best", *, sign: Path | str | None = None,
               encrypt: Path | str | None = None, licence: str = "", intended_use: str = "",
               anonymous: bool = False, watermark: Path | str | None = None) -> Path:
        """Write the artefact of a trial into a folder, and run its file.

        Args:
            path: the folder; left out, that of the study.
            trial: its number, or `"best"`.
            sign: file of the private key that signs the artefact (docs/security.md).
            encrypt: file of the key that its model and samples lie under.
            licence: words for manifest and card.
            intended_use: words for manifest and card.
            anonymous: its files hold no names of layers.
            watermark: file of the secret whose mark its weights get.

        Returns:
            The path of the file.

        Raises:
            InputError: for a trial that has nothing to export.
            StorageError: where a run is at work on the study.
            AutocompressError: where the file does not do what the trial promised.
        """
        from autocompress.study.process_state import kept_surroundings  # needs torch

        options = ExportOptions.of(sign, encrypt, licence, intended_use, anonymous, watermark)
        with locked(self.folder), kept_surroundings():
            return self.ship(path, trial, options)

    def ship(self, path: Path | str | None = None, trial: int | str = "best",
             options: ExportOptions | None = None) -> Path:
        """Write the artefact of a trial, as `export` does, for a caller who holds the study's lock.

        Args:
            path: the folder; left out, that of the study.
            trial: its number, or `"best"`.
            options: signature, encryption and words for the card.

        Returns:
            The path of the file.

        Raises:
            InputError: for a trial that has nothing to export.
            AutocompressError: where the file does not do what the trial promised.
        """
        from autocompress.study.further_formats import ship_in_all  # needs torch

        candidate = self.candidate(trial)
        if candidate.plan is None or not candidate.evaluations:
            raise InputError(f"a trial must have been scored to be exported, but trial {candidate.trial} is "
                             f"{candidate.status} ({candidate.reason}); `autocompress report` lists the others")
        target = Path(path) if path is not None else self.folder / ARTIFACT
        facts = ship_in_all(self.bench, candidate, target, self._description, options)
        if path is None:
            self._description = msgspec.structs.replace(self._description, artifact=facts)
            write_description(self.folder, self._description)
        return Path(facts["path"])

    @property
    def is_exported(self) -> bool:
        """Whether the study's own artefact is the best candidate as it is now."""
        facts, candidate = self.artifact or {}, self.best
        # A later average has another rung or metric.
        return (bool(facts) and not self.artifact_fault and candidate is not None and candidate.best is not None
                and (facts.get("trial"), facts.get("rung"), facts.get(f"promised_{self.metric.name}"))
                == (candidate.trial, candidate.best.rung, candidate.metrics[self.metric.name]))

    @property
    def artifact_fault(self) -> str:
        """What is wrong with the study's own artefact, in words: that it is gone, or was changed since it was verified.
        Empty where nothing is."""
        return artifact_fault(self.folder / ARTIFACT, self.artifact)

    @property
    def attribution(self) -> Attribution | None:
        """What each technique of the best plan bought and cost; None until a search has found that out."""
        stored, candidate = self._description.attribution, self.best
        same = stored is not None and candidate is not None and candidate.plan is not None \
            and (stored.trial, stored.plan_fingerprint) == (candidate.trial, candidate.plan.fingerprint)
        return stored if same else None

    def explain(self, projection: Projection, sensitivity_table: SensitivityTable | None, seconds: float,
                should_stop: Callable[[], bool]) -> None:
        """Find out, unless it is known already, what each technique of the best plan bought and cost; `conclude` keeps
        it.

        Args:
            projection: the space within the bounds.
            sensitivity_table: costs by option; with it, the sensitivity that was predicted of each trial is kept too.
            seconds: that it may take.
            should_stop: whether the user wants to stop.
        """
        from autocompress.study.tell_attribution import tell_attribution  # needs torch

        candidate, everyone, d = self.best, self.candidates, self._description
        if sensitivity_table is not None:
            sensitivities = {c.trial: plan_sensitivity(projection.space, c.plan, sensitivity_table) for c in everyone
                     if c.plan and c.trial not in d.sensitivities}  # those of an earlier run are known
            d = msgspec.structs.replace(
                d,
                sensitivities=d.sensitivities
                | {n: sensitivity for n, sensitivity in sensitivities.items() if sensitivity is not None},
            )
        if candidate is not None and (self.attribution is None or not self.attribution.finished):
            d = msgspec.structs.replace(d, attribution=attribute(
                self.bench, projection, candidate, everyone, d.budget, sensitivity_table, seconds, should_stop))
        if self._bench is not None and not artifact_fault(self.folder / ARTIFACT, d.artifact):
            d = tell_attribution(self._bench, self.folder / ARTIFACT, d)
        self._description = d

    @property
    def warnings(self) -> list[Warned]:
        """What was warned of in the last run, and what is wrong with the exported file."""
        of_file = [Warned(**warned) for warned in (self.artifact or {}).get("warnings", ())]
        return merged((*self._description.warnings, *of_file))

    def conclude(self, timings: dict[str, float], seconds: float, warnings: Sequence[Warned] = (),
                 finished: str = "") -> None:
        """Keep what a finished run has to say of itself, and write the report.

        Args:
            timings: seconds by stage.
            seconds: of the whole run.
            warnings: of the run.
            finished: what `study/finished.py` knows a study by that has nothing left to do; empty for others.
        """
        self.seconds = seconds
        of_file = (self.artifact or {}).get("warnings", ())
        of_search = tuple(warned for warned in warnings if msgspec.to_builtins(warned) not in of_file)
        self._description = msgspec.structs.replace(self._description, timings=timings | {"search": seconds},
                                                    warnings=of_search)
        write_description(self.folder, self._description)
        self.report()
        if finished:  # last: of a run that is killed before, the report is left to do
            self._description = msgspec.structs.replace(self._description, finished=finished)
            write_description(self.folder, self._description)

    def plot(self, x: str = "size_bytes") -> Any:
        """The Pareto figure (plotly) of the task's metric against a resource.

        Args:
            x: `size_bytes`, `latency_ms` (of further devices `latency_ms@ID`) or `macs`.
        """
        from autocompress.report.pareto import pareto_figure  # needs plotly

        return pareto_figure(self.view(), x)

    def report(self, folder: Path | str | None = None) -> Path:
        """Write `pareto.html`, `trials.csv` and `trials.json`.

        Args:
            folder: where; left out, `report` in the study's folder.

        Returns:
            The path of the page.
        """
        from autocompress.report.html import write_report  # needs pandas and plotly

        return write_report(self.view(), Path(folder) if folder else self.folder / REPORT)

    def view(self) -> StudyView:
        """Everything a report shows, as plain data."""
        d, everyone, candidate = self._description, self.candidates, self.best
        members = front(everyone, d.budget, d.reference)
        return StudyView(
            name=d.name, profile=", ".join(d.targets) or str(d.settings.profile), budget=d.budget,
            metric=d.metric, seed=d.settings.seed, space=d.settings.space,
            baseline=d.baseline, sources=d.sources, candidates=tuple(everyone),
            front=tuple(c.trial for c in members), best=candidate.trial if candidate else None, layers=d.table,
            parts=self._parts(candidate.plan) if candidate and candidate.plan else (),
            untouched=untouched(d.table), artifact=d.artifact, timings=self._timings(everyone), targets=d.targets,
            attribution=self.attribution, sensitivities=d.sensitivities, warnings=tuple(self.warnings),
            techniques=self._techniques,
        )

    def _parts(self, plan: Plan) -> tuple[Part, ...]:
        """The parts that a plan makes, as far as its techniques are at hand."""
        plan = at_hand(plan, self._techniques)
        return tuple(flatten(resolve(self._description.table, plan, self._techniques)))

    def _timings(self, everyone: list[Candidate]) -> dict[str, float]:
        totals: dict[str, float] = {}
        for candidate in everyone:
            for evaluation in candidate.evaluations if candidate.duplicate_of is None else ():
                for phase, seconds in evaluation.timings.items():
                    totals[phase] = totals.get(phase, 0.0) + seconds
        return totals | {k: v for k, v in self._description.timings.items() if k != "search"}

    def to_dict(self) -> dict[str, Any]:
        """The document of `--json`."""
        d, everyone, candidate = self._description, self.candidates, self.best
        counts = {status: sum(c.status == status for c in everyone)
                  for status in ("complete", "infeasible", "failed", "duplicate")}
        members = front(everyone, d.budget, d.reference)
        shipped = d.artifact or {}
        baseline = dict(d.baseline)
        for each in d.metric.every:
            if f"baseline_{each.name}" in shipped:
                baseline |= {each.name: shipped[f"baseline_{each.name}"]}
        if "baseline_latency_ms" in shipped and d.sources[LATENCY] != "estimated":
            baseline |= {LATENCY: shipped["baseline_latency_ms"]}
        keys = ("path", "size_bytes", *(each.name for each in d.metric.every), "latency_ms", "latency_wall_ms",
                "latency_spread", "baseline_latency_ms", "baseline_latency_wall_ms", "speedup", "original", "verified")
        return {
            "study": {"name": d.name, "storage": storage_url(self.folder, d.settings.storage), "seed": d.settings.seed,
                      "profile": msgspec.to_builtins(d.settings.profile), "budget": msgspec.to_builtins(d.budget),
                      "metric": msgspec.to_builtins(d.metric)},
            "baseline": baseline,
            "best": {"trial": candidate.trial, "metrics": candidate.metrics,
                     "plan_fingerprint": candidate.plan.fingerprint if candidate.plan else None} if candidate else None,
            "front": [{"trial": c.trial, "metrics": c.metrics} for c in members],
            "trials": counts,
            "artifact": {key: shipped.get(key) for key in keys} | {"verified": not self.artifact_fault} if shipped
            else None,
            "warnings": msgspec.to_builtins(self.warnings),
            "rarest": shipped.get("rarest", []),
            "report": str(self.folder / REPORT / "pareto.html"),
            "seconds": round(self.seconds, 3),
        }


def open_study(folder: Path | str, *, model: Any = None, data: Any = None, load_network: bool = False,
               trust_code: bool = True, device: str = "auto", **objects: Any) -> SearchResult:
    """A stored study.

    Args:
        folder: of the study.
        model: the network with which the search was made, where it was a Python object.
        data: its data, where they were Python objects.
        load_network: load network and data as the study names them, so that trials can be exported. What is given as
            `model` is loaded too.
        trust_code: run the Python files that the study names.
        device: where networks are trained: `auto`, `cpu` or `cuda`.
        objects: those of `task`, `metric`, `decode`, `format` and `techniques` with which the search was made.

    Raises:
        InputError: where the folder holds no study, or network, data or techniques are not those of the study.
        StorageError: where its database cannot be used.
    """
    folder = Path(folder)
    description = read_description(folder)
    store = read_store(folder, description)
    bench = None
    if load_network or model is not None:
        from autocompress.study.loading import reopen_bench
        from autocompress.study.process_state import kept_surroundings

        with kept_surroundings():
            options = {"model": model, "data": data, **objects}
            bench = reopen_bench(folder, description, options, trust_code, device)
    return SearchResult(folder, description, store=store, bench=bench)
