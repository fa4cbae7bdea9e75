"""Specs of sources as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.errors import InputError
from autocompress.tasks.sources.specs import located, parsed, source_kind


def test_a_spec_is_a_kind_places_and_options() -> None:
    spec = parsed("coco:a b.json, images?fit=pad&classes=red%20cell,white%26blue")
    assert (spec.kind, spec.places) == ("coco", ("a b.json", "images"))
    assert spec.options == {"fit": "pad", "classes": "red cell,white&blue"}
    assert spec.listed("classes") == ("red cell", "white&blue") and spec.listed("none") is None
    assert parsed("csv:a,b.csv").places == ("a,b.csv",)
    assert parsed("npz:odd ?x=1.npz").places == ("odd ?x=1.npz",)
    assert parsed("voc:why? not?fit=pad").places == ("why? not",)
    assert parsed("audio:~/x").paths == (Path.home() / "x",)


def test_the_kind_of_a_spec() -> None:
    assert [source_kind(spec) for spec in ("voc:DIR", "csv:", "digits", "imagefolder:x", "file.py:csv", None)] == [
        "voc", None, None, None, None, None]


def test_places_beside_a_file() -> None:
    assert located("masks:a, b?fit=pad", lambda place: f"/up/{place}") == "masks:/up/a,/up/b?fit=pad"


@pytest.mark.parametrize(("spec", "said"), [
    ("coco:a", "must be coco:ANNOTATIONS,IMAGES"), ("coco:a,", "must be coco:ANNOTATIONS,IMAGES"),
    ("voc:a?color=red", "there are fit, classes"), ("voc:a?fitt=pad", "did you mean 'fit'"),
    ("voc:a?fit=pad&classes", "'classes' is none"), ("voc:a?fit=pad&fit=crop", "fit must be given once")])
def test_specs_that_cannot_be(spec: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parsed(spec)
