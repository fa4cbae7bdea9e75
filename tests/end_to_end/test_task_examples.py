"""The examples of docs/tasks.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import autocompress

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text("utf-8")
EXAMPLES = dict(re.findall(r"^### ([^\n]*)\n(?:(?!^#+ ).)*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
search = autocompress._search


def run(kind: str) -> dict[str, Any]:
    """What an example defines."""
    torch.manual_seed(0)
    defined: dict[str, Any] = {"__name__": "example"}
    exec(compile(EXAMPLES[kind], f"docs/tasks.md, {kind}", "exec"), defined)
    return defined


def test_there_is_an_example_a_kind() -> None:
    assert [*EXAMPLES] == ["Classification", "Regression", "Embeddings", "Segmentation", "Detection",
                           "Text, token by token", "Time series", "Image to image", "Without labels"]


@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_example_is_scored(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the file of the original, whose metrics are finite."""
    def original(model: Any, *, task: Any, budget: str) -> Any:
        return autocompress.trace(model, task=task).evaluate(autocompress.Plan()).metrics

    monkeypatch.setattr(type(autocompress.search), "__call__", staticmethod(original))
    defined = run(kind)
    for metric in (defined["task"].metric, *defined["task"].further):
        assert abs(defined["result"][metric.name]) < 1e6 and defined["result"][metric.error] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_example_runs_whole(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(type(autocompress.search), "__call__", staticmethod(
        lambda model, **options: search(model, **options, trials=4, epochs=1, out=tmp_path / "study")))
    result = run(kind)["result"]
    assert result.artifact is not None and result.artifact["verified"]
