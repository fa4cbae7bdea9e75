"""Every notebook runs from top to bottom."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import nbformat
import plotly.graph_objects as go
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", [pytest.param(path, marks=[] if path.stem == "quickstart" else pytest.mark.slow)
                                  for path in NOTEBOOKS], ids=lambda p: p.name)
def test_the_code_of_its_cells_runs_and_shows_the_figure(path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         tmp_path: Path) -> None:
    """In this process, where searches are short."""
    monkeypatch.setenv("QUICKSTART_TRIALS", "2")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names: dict[str, Any] = {}
    shown = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            body = ast.parse(cell.source).body
            last = body.pop().value if isinstance(body[-1], ast.Expr) else ast.Constant(None)
            exec(compile(ast.Module(body, []), path.name, "exec"), names)
            shown.append(eval(compile(ast.fix_missing_locations(ast.Expression(last)), path.name, "eval"), names))
    assert any(isinstance(value, go.Figure) for value in shown), "the Pareto figure is shown"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_it_runs_in_a_kernel(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKSTART_TRIALS", "5")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert any("application/vnd.plotly.v1+json" in o.get("data", {}) for o in outputs), "the Pareto figure is shown"


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS
