"""The stages of a search one by one: a traced network whose options are measured, and plans of one's own applied."""

from __future__ import annotations

import math
import shutil
import weakref
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from autocompress.backend.network.compressed import Compressed
from autocompress.core.evaluation import Candidate, Evaluation, Metrics
from autocompress.core.layer import LayerTable
from autocompress.core.plan import Plan
from autocompress.core.sensitivity import SensitivityTable
from autocompress.space.format_legality import space_of
from autocompress.study.export_candidate import ship
from autocompress.study.folder import Description, prepare_folder
from autocompress.study.identity import default_name, described, fingerprints
from autocompress.study.loading import load_task, make_bench
from autocompress.study.process_state import kept_surroundings
from autocompress.study.request import Request
from autocompress.study.sensitivity import sensitivity as measured_sensitivity
from autocompress.study.settings import SearchSettings
from autocompress.tasks.base import metric_of
from autocompress.techniques.apply import check_plan


class TracedModel:
    """A trained network traced for one device: it is asked what options cost, and plans are applied to it.

    What plans leave behind (weights of trained candidates, files) is kept in a folder of its own until the object is
    gone, or in `out` where the settings name it. Results are those of a search with the same settings and seed.

    Args:
        settings: of a search; what concerns trials is not used.

    Raises:
        InputError: for a network, data, profile or space that cannot be used.
    """

    def __init__(self, settings: SearchSettings) -> None:
        request = Request.of(settings)
        folder = settings.out or Path(mkdtemp(prefix="autocompress-"))
        if settings.out is None:
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        prepare_folder(folder)
        with kept_surroundings():
            self._network, self._data = load_task(settings)
            self._request = replace(request, budget=request.budget.of_metric(metric_of(self._data)))
            self._bench = make_bench(self._network, self._data, self._request, folder)

    @property
    def layers(self) -> LayerTable:
        """The network's layers and groups of channels, whose names are the sites of a plan's steps."""
        return self._bench.network.table

    @cached_property
    def baseline(self) -> Metrics:
        """The original's metrics on the validation split."""
        with kept_surroundings():
            return self._bench.evaluator.baseline()

    def sensitivity(self, timeout: float = math.inf) -> SensitivityTable:
        """Predict how much each option of each site changes the network's answers.

        Args:
            timeout: seconds that it may take; where they are short, it looks at fewer samples and options.

        Returns:
            A table of technique, site and option, in nats of KL divergence from the original's answers.
        """
        request = self._request
        space = space_of(self.layers, request.space, request.profile, request.file_format, frozenset(),
                         request.techniques, request.further_formats)
        with kept_surroundings():
            return measured_sensitivity(self._bench, space, timeout)

    def compress(self, plan: Plan) -> Compressed:
        """Apply a plan, calibrated and without training.

        Args:
            plan: steps whose sites are names of `layers`.

        Returns:
            The compressed network: its `model` is a torch module.

        Raises:
            InputError: for a plan that is not legal for this network and device.
        """
        check_plan(self.layers, plan, self._request.profile, self._request.techniques)
        with kept_surroundings():
            return self._bench.network.compressor.compress(plan)

    def evaluate(self, plan: Plan, rung: int = 0) -> Evaluation:
        """Compress, train, write the file and run it.

        Args:
            plan: steps whose sites are names of `layers`.
            rung: how long to train: 0 not at all, 1 briefly, 2 for the `epochs` of the settings.

        Returns:
            Metrics of the file on the validation split.

        Raises:
            InputError: for a plan that is not legal for this network and device.
            TrialError: where the plan's network cannot be computed or exported.
        """
        with kept_surroundings():
            return self._bench.evaluator.evaluate(plan, rung)

    def export(self, plan: Plan, folder: Path | str, rung: int = 0) -> Path:
        """Write the artefact of a plan, and run its file on the test split.

        Args:
            plan: steps whose sites are names of `layers`.
            folder: for the file, the manifest and the card.
            rung: how long to train, as of `evaluate`.

        Returns:
            The path of the file.

        Raises:
            InputError: for a plan that is not legal for this network and device.
            AutocompressError: where the file does not do what its evaluation promised.
        """
        candidate = Candidate(trial=0, status="complete", plan=plan, evaluations=(self.evaluate(plan, rung),))
        prepare_folder(Path(folder))
        with kept_surroundings():
            return Path(ship(self._bench, candidate, Path(folder), self._description)["path"])

    @property
    def _description(self) -> Description:
        name = self._request.settings.name or default_name(self._network, self._data, self._request.settings)
        hashes = fingerprints(self._network, self._data, self._request)
        return described(name, self._request, hashes, self._bench, self.baseline, timings={})


def trace(model: Any = None, data: Any = None, **settings: Any) -> TracedModel:
    """Trace a network for a device, as a search does before its trials.

    Args:
        model: the trained network, as of `autocompress.search`.
        data: its data, as there.
        settings: further settings of a search: `profile`, `space`, `weights`, `seed`, `epochs` …

    Returns:
        The traced network, on which the other stages are called: `sensitivity`, `compress`, `evaluate`, `export`.

    Raises:
        InputError: for a network, data, profile or space that cannot be used.
    """
    return TracedModel(SearchSettings.of(model=model, data=data, **settings))


def sensitivity(traced: TracedModel, timeout: float = math.inf) -> SensitivityTable:
    """Predict what each option of each layer costs, as `TracedModel.sensitivity` does.

    Args:
        traced: what `trace` returned.
        timeout: seconds that it may take.

    Returns:
        A table of technique, site and option, in nats of KL divergence from the original's answers.
    """
    return traced.sensitivity(timeout)


def compress(traced: TracedModel, plan: Plan) -> Compressed:
    """Apply a plan of one's own, without training, as `TracedModel.compress` does.

    Args:
        traced: what `trace` returned.
        plan: steps whose sites are names of `traced.layers`.

    Returns:
        The compressed network: its `model` is a torch module.
    """
    return traced.compress(plan)


def evaluate(traced: TracedModel, plan: Plan, rung: int = 0) -> Evaluation:
    """Measure the file of a plan of one's own, as `TracedModel.evaluate` does.

    Args:
        traced: what `trace` returned.
        plan: steps whose sites are names of `traced.layers`.
        rung: how long to train: 0 not at all, 1 briefly, 2 for the `epochs` of the settings.

    Returns:
        Metrics of the file on the validation split.
    """
    return traced.evaluate(plan, rung)


def export(traced: TracedModel, plan: Plan, folder: Path | str, rung: int = 0) -> Path:
    """Write and verify the file of a plan of one's own, as `TracedModel.export` does.

    Args:
        traced: what `trace` returned.
        plan: steps whose sites are names of `traced.layers`.
        folder: for the file, the manifest and the card.
        rung: how long to train, as of `evaluate`.

    Returns:
        The path of the file.
    """
    return traced.export(plan, folder, rung)
