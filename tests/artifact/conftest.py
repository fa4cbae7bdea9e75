"""Artefacts that the tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from shipping import quantised, shipped

from autocompress.testing.techniques import workbench


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of 20 numbers."""
    bench = workbench("mlp")
    return shipped(bench, quantised(bench), tmp_path_factory.mktemp("artifact") / "mlp")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of pictures (3, 12, 12)."""
    bench = workbench("chain")
    return shipped(bench, quantised(bench, 8), tmp_path_factory.mktemp("artifact") / "chain")
