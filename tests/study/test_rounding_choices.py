"""How activations are rounded: measured on the original, then kept by every plan of the search."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from autocompress.formats.ranges import choose_range
from autocompress.hardware.profile import load_profile
from autocompress.space.space import build_space
from autocompress.space.spec import load_space, parse_space
from autocompress.study import rounding_choices
from autocompress.study.folder import read_description
from autocompress.study.rounding_choices import UNMEASURED, measured_choices, settled_space
from autocompress.study.run import search
from autocompress.study.settings import SearchSettings
from autocompress.study.workbench import Workbench
from autocompress.testing.networks import NETWORKS, task_data
from autocompress.testing.techniques import workbench

DEFAULT = load_space("default")
BOTH = ("range", "equalize")


def test_what_diverges_least_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divergences are told, so that nothing hangs on a small network's chance."""
    bench, asked = workbench("residual"), []
    best = {"range": "percentile-99.9", "equalize": "none"}

    def divergence(self: object, choices: dict[str, str], compressed: object) -> float:
        asked.append(dict(choices))
        return 0.1 if choices == best else 1.0

    monkeypatch.setattr(rounding_choices._Rounded, "_divergence", divergence)
    assert measured_choices(bench, BOTH) == best
    assert [choices["range"] for choices in asked[:3]] == ["percentile", "minmax", "percentile-99.9"]
    asked.clear()
    assert measured_choices(bench, ("equalize",)) == {"equalize": "none"}
    assert all("range" not in choices for choices in asked)


def test_where_nothing_hangs_on_it_nothing_else_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    monkeypatch.setattr(rounding_choices._Rounded, "_divergence", lambda *args: tried.append(args) or 1e-5)
    assert measured_choices(workbench("residual"), BOTH) == UNMEASURED
    assert len(tried) == 1


def test_what_is_measured_diverges_less_than_what_is_not_taken() -> None:
    """Of all ways of the original in 8 bits none diverges much less than the chosen one."""
    bench = workbench("separable")
    choices = measured_choices(bench, BOTH)
    rounded = rounding_choices._Rounded(bench, {layer.name for layer in bench.network.table.layers})
    taken = rounded._divergence(choices, rounded._compressed(choices))
    for name in rounding_choices.RANGES:
        other = {"range": name, "equalize": "none"}
        diverges = rounded._divergence(other, rounded._compressed(other))
        assert taken <= max(diverges / rounding_choices.MARGIN, rounding_choices.NEGLIGIBLE)


def test_nothing_is_measured_without_integers_or_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("was measured")

    bench = workbench("residual")
    monkeypatch.setattr(rounding_choices, "_Rounded", fail)
    every = frozenset(layer.name for layer in bench.network.table.layers)
    assert measured_choices(bench, BOTH, every) == UNMEASURED
    assert measured_choices(bench, BOTH, each=1.0, seconds=10.0) == UNMEASURED


def test_a_space_that_says_how_is_left_as_it_is() -> None:
    text = 'schema = 1\nname = "m"\n[quantize]\nranges = ["minmax"]\nequalizes = ["weights", "none"]\n'
    spec = parse_space(text, "m.toml")
    assert settled_space(_bench(), spec, SearchSettings(), Path("none"), frozenset(), 0.0, 1.0) is spec
    assert DEFAULT.quantize is not None and DEFAULT.quantize.open_choices == BOTH


def test_plans_of_a_space_have_what_was_measured() -> None:
    assert DEFAULT.quantize is not None
    bench = _bench()

    def ranges(choices: dict[str, str]) -> set[object]:
        assert DEFAULT.quantize is not None
        spec = parse_space('schema = 1\nname = "m"\n[quantize]\nweight_bits = [8]\nactivation_bits = [8]\n', "m.toml")
        assert spec.quantize is not None
        spec = msgspec.structs.replace(spec, quantize=spec.quantize.with_measured(choices), prune=DEFAULT.prune)
        space = build_space(bench.network.table, spec, load_profile("host"))
        return {step.args.get("range") for step in space.decode(space.uniform(8)).find("quantize").values()}

    assert ranges({"range": "percentile-99.9", "equalize": "none"}) == {"percentile-99.9"}
    assert ranges({}) == {None}, "a study of an earlier release goes on with what its plans had"


@pytest.mark.usefixtures("short_searches")
def test_a_study_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed, it measures nothing, and its plans are rounded as before."""
    measured = {"range": "percentile-99.9", "equalize": "none"}
    monkeypatch.setattr(rounding_choices, "measured_choices", lambda *_: measured)
    folder = tmp_path / "study"
    network = NETWORKS["residual"]
    settings = {"model": network.make(), "data": task_data(network.input_shape), "budget": "5kB",
                "profile": "raspberry-pi-4", "epochs": 1, "effort": "fast", "out": folder}
    search(**settings, trials=2)
    assert read_description(folder).rounding == measured

    def fail(*_: object) -> None:
        raise AssertionError("was measured again")

    monkeypatch.setattr(rounding_choices, "measured_choices", fail)
    result = search(**settings, trials=3, resume=True)
    assert read_description(folder).rounding == measured
    found = {step.args.get("range") for candidate in result.candidates if candidate.plan
             for step in candidate.plan.steps if step.technique == "quantize" and step.args["activation_bits"] == 8}
    assert found == {"percentile-99.9"}


def test_percentiles_leave_out_their_share() -> None:
    values = np.abs(np.random.default_rng(0).standard_normal(2**18)).astype(np.float32)
    spans = [choose_range(values, 0.0, float(values.max()), method=method).scale
             for method in ("minmax", "percentile", "percentile-99.9")]
    assert spans[0] > spans[1] > spans[2]
    assert (values > 255 * spans[2]).mean() == pytest.approx(5e-4, rel=0.1), "half of the share at this end"


def _bench() -> Workbench:
    return workbench("residual")
