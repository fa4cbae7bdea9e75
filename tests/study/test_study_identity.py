"""What makes two searches one study: exact values, however they read, and what earlier releases stored of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from autocompress.core.budget import Budget
from autocompress.formats.onnx.format import OnnxFormat
from autocompress.hardware.profile import load_profile
from autocompress.space.spec import load_space, parse_space
from autocompress.study.folder import Description, write_description
from autocompress.study.identity import former_identity, identity_of
from autocompress.study.request import Request
from autocompress.study.settings import SETTINGS, SearchSettings
from autocompress.tasks.classification.metric import ACCURACY
from autocompress.techniques.drop import Drop
from autocompress.testing.techniques import workbench


class _Other(OnnxFormat):
    """A format of another name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class _Row(Drop):
    """A technique of another name."""

    def __init__(self, name: str) -> None:
        self.name = name


BOUNDS = {"budget": ("2500", "2504"), "latency": ("5ms", "5.001ms"), "macs": ("50M", "50000001"),
          "peak_memory": ("1kB", "1001B"), "max_drop": ("1%", "0.01004"),
          "at_least": ("accuracy=90%", "accuracy=0.901")}
OWN = {"task": ("a.py:One", "a.py:Two"), "format": (_Other("one"), _Other("two")), "seed": (0, 1),
       "dynamic": (False, True), "metric": ("mae", "r2"), "decode": ("a.py:one", "a.py:two"),
       "techniques": ([_Row("one")], [_Row("one"), _Row("two")])}


def _identity(**options: Any) -> dict[str, Any]:
    source: Any = SimpleNamespace(fingerprint="abc")
    data = {} if "task" in options else {"data": "digits"}
    settings = SearchSettings.of(model="torchvision:resnet18", **data, **options)
    return identity_of(source, source, Request.of(settings))


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting.identity
                                  and name not in ("model", "data", "profile", "space")])
def test_values_that_differ_are_two_studies(name: str) -> None:
    one, other = (BOUNDS | OWN)[name]
    assert _identity(**{name: one}) != _identity(**{name: other})
    assert _identity(**{name: one}) == _identity(**{name: one})


def test_values_count_and_not_how_they_are_said() -> None:
    assert _identity(budget="2MB", latency="5ms") == _identity(budget=2_000_000, latency={"host": "0.005s"})
    assert _identity(budget="2MB") != _identity(budget="2004999B") and _identity(max_drop=0) != _identity()
    assert _identity(trials=3, jobs=2, device="cpu", timeout="5m") == _identity()


def _request(budget: Budget, space: str = "default") -> Request:
    return Request(SearchSettings(), load_space(space), load_profile("host"), budget)


def test_budgets_of_earlier_releases_were_text(tmp_path: Path) -> None:
    """Rounded text counts where the exact budget of `study.json` is the same."""
    budget, near = Budget(size_bytes=2500, max_drop=0.01), Budget(size_bytes=2504, max_drop=0.01)
    exact, rounded = "size_bytes ≤ 2500, max_drop ≤ 0.01", budget.describe(ACCURACY)
    assert rounded == near.describe(ACCURACY)
    assert former_identity(_request(budget), tmp_path)["budget"] == [exact]
    (tmp_path / "study.db").write_bytes(b"")
    write_description(tmp_path, Description(
        name="s", settings=SearchSettings(), budget=budget, baseline={}, sources={},
        table=workbench("mlp").network.table, refused={}, fingerprints={}))
    assert former_identity(_request(budget), tmp_path)["budget"] == [exact, rounded]
    assert rounded not in former_identity(_request(near), tmp_path)["budget"]


def test_spaces_of_earlier_releases_were_hashed_with_the_former_name_of_gptq(tmp_path: Path) -> None:
    spec = parse_space('schema = 1\nname = "m"\n[quantize]\nranges = ["minmax"]\nequalizes = ["none"]\n', "m.toml")
    assert spec.quantize is not None
    former = msgspec.structs.replace(spec, quantize=msgspec.structs.replace(spec.quantize, roundings=("feedback",)))
    hashed = hashlib.sha256(msgspec.json.encode(former, order="sorted")).hexdigest()[:16]
    request = Request(SearchSettings(), spec, load_profile("host"), Budget())
    assert hashed in former_identity(request, tmp_path)["space"]


def test_spaces_of_earlier_releases_were_hashed_with_minmax_and_without_equalization(tmp_path: Path) -> None:
    spec = parse_space('schema = 1\nname = "m"\n[quantize]\n', "m.toml")
    assert spec.quantize is not None
    former = msgspec.structs.replace(
        spec, quantize=msgspec.structs.replace(spec.quantize, ranges=("minmax",), equalizes=("none",)))
    hashed = hashlib.sha256(msgspec.json.encode(former, order="sorted")).hexdigest()[:16]
    request = Request(SearchSettings(), spec, load_profile("host"), Budget())
    assert hashed in former_identity(request, tmp_path)["space"]
