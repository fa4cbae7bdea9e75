"""What makes two searches one study: exact values, however they read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autocompress.core.budget import Budget
from autocompress.space.spec import load_space
from autocompress.study.folder import Description, write_description
from autocompress.study.identity import identity_of, older_identity
from autocompress.testing.techniques import workbench


def _identity(budget: Budget) -> dict[str, Any]:
    source: Any = SimpleNamespace(fingerprint="abc")
    return identity_of(source, source, load_space("default"), "p", 0, budget)


@pytest.mark.parametrize(("one", "other"), [
    ({"size_bytes": 2500}, {"size_bytes": 2504}), ({"size_bytes": 2_000_000}, {"size_bytes": 2_004_999}),
    ({"max_drop": 0.01}, {"max_drop": 0.01004}), ({"max_drop": 0.0}, {}), ({"latency_ms": 5.0}, {"latency_ms": 5.001}),
    ({"macs": 50_000_000}, {"macs": 50_000_001}), ({"peak_memory_bytes": 1000}, {"size_bytes": 1000}),
    ({"further_latency_ms": {"a": 1.0}}, {"further_latency_ms": {"a": 1.0001}}),
])
def test_budgets_that_differ_are_two_studies(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert _identity(Budget(**one)) != _identity(Budget(**other))
    assert _identity(Budget(**one)) == _identity(Budget(**one))


def test_rounded_text_of_earlier_releases_counts_where_the_exact_budget_is_the_same(tmp_path: Path) -> None:
    budget, near = Budget(size_bytes=2500), Budget(size_bytes=2504)
    assert budget.describe() == near.describe()
    assert older_identity(_identity(budget), tmp_path, budget) is None
    (tmp_path / "study.db").write_bytes(b"")
    write_description(tmp_path, Description(
        name="s", storage="", seed=0, space="default", profile="host", epochs=1, budget=budget, baseline={}, sources={},
        table=workbench("mlp").network.table, refused={}, given={}, fingerprints={}))
    assert older_identity(_identity(budget), tmp_path, budget) == {**_identity(budget), "budget": budget.describe()}
    assert older_identity(_identity(near), tmp_path, near) is None
