"""The published JSON schema of the manifest holds what the program reads, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from autocompress.artifact.manifest import schema

PUBLISHED = Path(__file__).parents[2] / "docs" / "manifest.schema.json"


def test_the_published_schema_is_that_of_the_program() -> None:
    assert json.loads(PUBLISHED.read_text("utf-8")) == schema(), (
        "docs/manifest.schema.json must be json.dumps(autocompress.artifact.manifest.schema(), indent=1)")
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("which", ["artifact", "pictures"])
def test_manifests_keep_to_it(which: str, request: pytest.FixtureRequest) -> None:
    manifest = json.loads((request.getfixturevalue(which) / "manifest.json").read_bytes())
    jsonschema.validate(manifest, schema())


@pytest.mark.parametrize("keys", [{"files": {"a": {"sha256": "x", "bytes": 1}}}, {"trial": "x"}, {"version": 0},
                                  {"input": {"name": "x"}}, {"samples": {"count": 0}}])
def test_documents_that_break_it_are_told(artifact: Path, keys: dict[str, Any]) -> None:
    manifest = json.loads((artifact / "manifest.json").read_bytes()) | keys
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, schema())
