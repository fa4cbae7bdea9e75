"""Networks of transformers, from folders."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_hugging_face import save_bert

from autocompress.errors import EnvironmentFault, InputError
from autocompress.tasks import cache
from autocompress.tasks.hugging_face import is_hugging_face, load_hugging_face, preparation_said


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("hf") / "tiny-bert"
    return folder, save_bert(folder, num_labels=2)


def test_a_folder_is_the_network_and_its_tokenizer(saved: tuple[Path, Any]) -> None:
    folder, original = saved
    loaded = load_hugging_face(f"hf:{folder}")
    assert loaded.name == "tiny-bert" and loaded.preparation is None and not loaded.model.training
    assert loaded.tokenizer.model_max_length == 32
    tokens = loaded.tokenizer("a good movie", return_tensors="pt")
    assert tokens["input_ids"].tolist() == [[2, 11, 5, 13, 3]]
    with torch.no_grad():
        assert torch.equal(loaded.model(**tokens).logits, original(**tokens).logits)


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_folders_that_cannot_be(saved: tuple[Path, Any], tmp_path: Path) -> None:
    def refused(said: str, place: Path | str) -> None:
        with pytest.raises(InputError, match=said):
            load_hugging_face(f"hf:{place}")

    refused("there is no folder", "./nowhere")
    refused("must be a folder that save_pretrained", tmp_path)
    folder = copied(saved[0], tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    save_file({name: each for name, each in weights.items() if name != "classifier.weight"},
              folder / "model.safetensors", {"format": "pt"})
    refused(r"but 1 are missing or of another shape, such as classifier\.weight", folder)
    (folder / "model.safetensors").write_bytes(b"damaged")
    refused("must be a folder that save_pretrained", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["MyBert"]}))
    refused("must name a class of transformers in `architectures` of its config.json, but names MyBert", folder)


def test_an_id_of_the_hub_needs_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_answers", lambda url: False)
    with pytest.raises(EnvironmentFault, match="give its folder as hf:FOLDER"):
        load_hugging_face("hf:nobody/no-such-network")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(EnvironmentFault, match=r"pip install autocompress\[hf\]"):
        load_hugging_face("hf:anything")
    assert is_hugging_face("hf:x") and not is_hugging_face("hf:") and not is_hugging_face(None)


@pytest.mark.parametrize(("said", "sides", "mean"), [
    ({"size": {"height": 32, "width": 32}, "image_mean": [0.5], "image_std": [0.25]}, (32, 32), (0.5,)),
    ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224, "do_normalize": False}, (256, 224),
     (0.0,)),
    ({"size": 64, "resample": 3, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}, (64, 64), (0, 0, 0))])
def test_preparation_of_an_image_processor(said: dict[str, Any], sides: tuple[int, int], mean: tuple[float]) -> None:
    preparation = preparation_said(said, "place")
    assert preparation is not None and preparation.sides == sides and preparation.mean == mean
    assert preparation.interpolation == ("bicubic" if "resample" in said else "bilinear")
    assert preparation_said({"size": {"height": 32, "width": 48}}, "place") is None
