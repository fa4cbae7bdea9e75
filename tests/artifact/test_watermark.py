"""The owner's watermark: put in at export, read back from the file of each format."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from shipping import quantised, shipped
from torch import nn

from autocompress.artifact.options import ExportOptions
from autocompress.artifact.watermark import DETECTED, MOST_MOVED, PUT_IN, evidence, put_in, votes_of
from autocompress.cli.main import main
from autocompress.core.plan import Plan, Step
from autocompress.errors import InputError, TrialError
from autocompress.formats.table import EXTRAS, READERS, format_named, reader_named
from autocompress.hardware.profile import load_profile
from autocompress.study.workbench import Workbench
from autocompress.testing.exporters import sites
from autocompress.testing.networks import task_data

KEY, OTHER = b"the owner's secret", b"somebody else's secret"
# The format of a file, the widths of its weights, and settings of the steps.
HELD = [("onnx", (8, 4, 3), {}), ("tflite-micro", (8, 4, 3), {})]
HELD_TOO = [("onnx", (8, 5, 8), {"grid": "codebook"}), ("onnx", (6, 8, 4), {"group": 32}),
            ("tflite", (8, 4, 8), {"grid": "whole"}), ("vela", (8, 8, 8), {}), ("onnx.xz", (8, 4, 8), {}),
            ("openvino", (8, 8, 8), {}), ("tensorrt", (8, 8, 8), {})]


def drawn(bits: int, channels: int, weights: int, seed: int = 0) -> np.ndarray:
    """Levels of normal weights on the grid of a width."""
    values = np.random.default_rng(seed).normal(size=(channels, weights))
    top, step = (64, 1) if bits == 8 else (2**bits - 1, 2)
    scaled = values / np.abs(values).max() * top
    whole = np.rint(scaled) if step == 1 else np.floor(scaled / 2) * 2 + 1
    return np.clip(whole, -top, top).astype(np.int8)


def legal(bits: int) -> np.ndarray:
    return np.arange(-64, 65) if bits == 8 else np.arange(1 - 2**bits, 2**bits, 2)


@pytest.mark.parametrize("bits", [8, 6, 4, 3])
def test_a_mark_shows_for_its_key_alone(bits: int) -> None:
    weights = {"a": drawn(bits, 64, 144), "b": drawn(bits, 64, 64, seed=1)}
    marked = put_in(weights, dict.fromkeys(weights, legal(bits)), KEY)
    assert marked.evidence.exponent <= (-PUT_IN if bits > 4 else -DETECTED)  # few pairs tell less
    assert marked.moved <= 1.05 * MOST_MOVED * 64 * 208
    for name, levels in marked.levels.items():
        assert np.isin(levels, legal(bits)).all() and levels.dtype == np.int8
        apart = np.abs(levels.astype(int) - weights[name])
        assert set(np.unique(apart)) <= {0, 1 if bits == 8 else 2}, "one level at most"
    assert evidence(marked.levels.values(), KEY).exponent == pytest.approx(marked.evidence.exponent)
    assert not evidence(weights.values(), KEY).detected, "a network without it"
    assert not any(evidence(marked.levels.values(), f"guess {number}".encode()).detected for number in range(50))


def test_weights_that_lie_between_two_levels_are_moved_first() -> None:
    ratios = np.random.default_rng(0).normal(size=(64, 144)) * 20
    levels = np.clip(np.rint(ratios), -64, 64).astype(np.int8)
    blind = put_in({"a": levels}, {"a": legal(8)}, KEY).levels["a"]
    marked = put_in({"a": levels}, {"a": legal(8)}, KEY, {"a": ratios}).levels["a"]
    before, after, without = (np.square(each - ratios).sum() for each in (levels, marked, blind))
    assert evidence([marked], KEY).detected and after - before < 0.5 * (without - before)


def test_as_many_levels_of_a_row_go_up_as_down() -> None:
    levels = drawn(4, 32, 144)
    marked = put_in({"a": levels}, {"a": legal(4)}, KEY).levels["a"]
    moved = marked.astype(int) - levels
    assert np.abs(moved).sum() > 10 * np.abs(moved.sum(1)).sum()


def test_neither_layout_nor_order_of_layers_nor_noise_hides_it() -> None:
    weights = {"a": drawn(8, 32, 144), "b": drawn(8, 64, 72, seed=1)}
    levels = put_in(weights, dict.fromkeys(weights, legal(8)), KEY).levels
    draw = np.random.default_rng(0)
    shuffled = [levels["b"][:, draw.permutation(72)], levels["a"][:, ::-1]]
    assert evidence(shuffled, KEY).exponent == pytest.approx(evidence(levels.values(), KEY).exponent)
    noisy = [one + np.where(draw.random(one.shape) < 0.1, 1, 0).astype(np.int8) for one in levels.values()]
    assert evidence(noisy, KEY).detected, "a tenth of all levels were changed"


def test_zeros_of_masks_stay_and_do_not_vote() -> None:
    levels = np.where(np.random.default_rng(0).random((64, 144)) < 0.5, 0, drawn(4, 64, 144)).astype(np.int8)
    marked = put_in({"a": levels}, {"a": legal(4)}, KEY)
    assert np.array_equal(marked.levels["a"] == 0, levels == 0)
    assert marked.evidence.weights == np.count_nonzero(levels)
    whole = drawn(8, 64, 144)
    assert np.array_equal(put_in({"a": whole}, {"a": legal(8)}, KEY).levels["a"] == 0, whole == 0)


def test_tables_tell_nothing_and_few_weights_are_refused() -> None:
    table = np.array([-64, -21, -5, 5, 21, 64], np.int8)
    assert evidence([np.random.default_rng(0).choice(table, (8, 40))], KEY).exponent > -5
    assert votes_of(np.zeros((4, 4), np.int8)) is None and not evidence([], KEY).detected
    with pytest.raises(InputError, match="about a thousand weights"):
        put_in({"a": drawn(8, 4, 9)}, {"a": legal(8)}, KEY)


def bench_of(name: str) -> Workbench:
    missing = [module for module in EXTRAS.get(name, ("", ()))[1] if find_spec(module) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not here")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
                            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5))
    profile = load_profile("ethos-u55-128" if name == "vela" else "host")
    return Workbench(network.eval(), task_data((3, 8, 8), 5), profile, seed=0, epochs=1,
                     file_format=format_named(name))


@pytest.mark.parametrize(("name", "widths", "settings"), [
    *HELD, *(pytest.param(*each, marks=pytest.mark.slow) for each in HELD_TOO)], ids=lambda value: str(value))
def test_it_is_read_back_from_the_file_of_each_format(
    name: str, widths: tuple[int, ...], settings: dict[str, str | int], tmp_path: Path,
    capsys: pytest.CaptureFixture[str]
) -> None:
    bench = bench_of(name)
    activations = 32 if "group" in settings else 8
    plan = Plan.of([Step(site, "quantize", {"weight_bits": bits, "activation_bits": activations,
                                            **(settings if bits < 8 else {})})
                    for site, bits in zip(sites(bench), widths, strict=True)])
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "other").write_bytes(OTHER)
    folder = shipped(bench, plan, tmp_path / "a", options=ExportOptions.of(watermark=tmp_path / "key"))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    facts = manifest["watermark"]
    shown = evidence(reader_named(name).integer_levels((folder / manifest["model"]).read_bytes()), KEY)
    assert (shown.exponent, shown.weights) == (pytest.approx(facts["chance_exponent"]), facts["weights"])
    assert shown.exponent < -DETECTED
    assert facts["with"]["accuracy"] == manifest["verified"]["accuracy"] and "accuracy" in facts["without"]
    assert "## Watermark" in (folder / "README.md").read_text()
    assert main(["verify", str(folder), "--watermark", str(tmp_path / "key")]) == 0
    assert "bear the mark of this key" in capsys.readouterr().out
    assert main(["verify", str(folder), "--watermark", str(tmp_path / "other")]) == 2
    assert "must bear the watermark of this key, but does not" in capsys.readouterr().err


def test_every_reader_reads_levels_or_says_that_it_cannot() -> None:
    for name in READERS:
        with pytest.raises((TrialError, InputError)):
            reader_named(name).integer_levels(b"no file")


def test_an_update_keeps_it_and_a_file_without_it_is_not_verified(tmp_path: Path) -> None:
    bench = bench_of("onnx")
    (tmp_path / "key").write_bytes(KEY)
    bare = shipped(bench, quantised(bench, 8), tmp_path / "bare")
    marked = shipped(bench, quantised(bench, 8), tmp_path / "marked", options=ExportOptions(watermark=KEY))
    assert (bare / "model.onnx").stat().st_size == (marked / "model.onnx").stat().st_size, "as it was predicted"
    key_flags = ["--watermark", str(tmp_path / "key")]
    assert main(["verify", str(bare), *key_flags]) == 2
    assert main(["diff", str(bare), str(marked), "--out", str(tmp_path / "update")]) == 0
    assert main(["patch", str(bare), str(tmp_path / "update"), "--out", str(tmp_path / "new")]) == 0
    assert main(["verify", str(tmp_path / "new"), *key_flags]) == 0


def test_what_bears_no_mark_is_refused_at_export(tmp_path: Path) -> None:
    bench = bench_of("onnx")
    halves = Plan.of([Step(site, "quantize", {"weight_bits": 16, "activation_bits": 32}) for site in sites(bench)])
    with pytest.raises(InputError, match="evenly spaced levels"):
        shipped(bench, halves, tmp_path / "a", options=ExportOptions(watermark=KEY))
    assert not (tmp_path / "a").exists()
    (tmp_path / "short").write_bytes(b"too short")
    assert main(["export", "nowhere", "--out", str(tmp_path / "b"), "--watermark", str(tmp_path / "short")]) == 2
