"""`autocompress.load` and `autocompress predict`: samples from files of any kind, by what the manifest says."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile
from shipping import edited, stored_inputs, with_file

import autocompress
from autocompress.artifact.inputs import read_samples
from autocompress.artifact.loaded import LoadedArtifact, whole_numbers
from autocompress.artifact.manifest import TensorFacts
from autocompress.artifact.predictions import probabilities
from autocompress.cli.main import main
from autocompress.errors import InputError
from autocompress.tasks.kinds.inputs import one_channel
from autocompress.tasks.pictures import Remarks, square, upright
from autocompress.tasks.sources.fit import Fit


def predicted(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    """The predictions of one command line with --json."""
    code = main(["predict", *args, "--json"])
    out = capsys.readouterr()
    assert code == 0, out.err
    return json.loads(out.out)["predictions"]


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The message of one that ends with 2."""
    assert main(["predict", *args]) == 2
    return capsys.readouterr().err


def test_a_loaded_network_answers_as_it_did_when_it_was_exported(artifact: Path) -> None:
    network = autocompress.load(artifact)
    samples = stored_inputs(artifact)["input"]
    answers = network(samples)
    assert list(answers) == ["output"] and answers["output"].shape == (4, 5)
    assert np.array_equal(network(input=samples)["output"], answers["output"])
    assert network.inputs["input"].shape == ["N", 20] and network.outputs["output"].meaning
    many = np.concatenate([samples] * 200)
    assert np.allclose(network(many)["output"][:4], answers["output"], atol=1e-5)
    network.close()


@pytest.mark.parametrize("arrays", [(), (np.zeros((1, 3)),), (np.zeros(20),), (np.zeros((0, 20)),),
                                    (np.zeros((1, 20)), np.zeros((1, 20))), (np.full((1, 20), "x"),)])
def test_arrays_that_do_not_fit_are_refused(artifact: Path, arrays: tuple[np.ndarray, ...]) -> None:
    network = autocompress.load(artifact)
    with pytest.raises(InputError, match="must"):
        network(*arrays)
    with pytest.raises(InputError, match="must"):
        network(tokens=np.zeros((1, 20)))


def test_loading_and_predicting_need_no_torch(artifact: Path) -> None:
    code = ("import sys, autocompress, numpy; network = autocompress.load(sys.argv[1])\n"
            "network(numpy.zeros((1, 20))); sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code, str(artifact)], check=False).returncode == 0


def test_stored_values_are_normalised_as_the_manifest_says(artifact: Path, tmp_path: Path) -> None:
    facts = json.loads((artifact / "manifest.json").read_bytes())["input"]
    edited(artifact, tmp_path, input=facts | {"scale": "pixels / 255", "mean": [0.5], "std": [0.25]})
    network = autocompress.load(tmp_path)
    assert np.allclose(network.normalised(np.full((1, 20), 255, np.uint8)), 2)
    assert np.allclose(network.normalised(np.ones((1, 20))), 2), "floats are divided already"
    assert np.allclose(autocompress.load(artifact).normalised(np.full((1, 20), 7)), 7)


def test_arrays_text_and_standard_input_give_the_same_answers(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = stored_inputs(artifact)["input"]
    np.save(tmp_path / "many.npy", samples)
    np.save(tmp_path / "one.npy", samples[0])
    np.savez(tmp_path / "named.npz", input=samples)
    np.savez_compressed(tmp_path / "other.npz", whatever=samples)
    (tmp_path / "rows.txt").write_text("\n".join(",".join(map(repr, row.tolist())) for row in samples) + "\n\n")
    expected = predicted(capsys, str(artifact), str(tmp_path / "many.npy"))
    assert [row["sample"] for row in expected] == [0, 1, 2, 3]
    for name in ("named.npz", "other.npz", "rows.txt"):
        rows = predicted(capsys, str(artifact), str(tmp_path / name))
        assert [row["outputs"] for row in rows] == [row["outputs"] for row in expected]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO((tmp_path / "one.npy").read_bytes())))
    (rows,) = predicted(capsys, str(artifact), "-")
    assert rows["outputs"]["output"] == pytest.approx(expected[0]["outputs"]["output"], abs=1e-5)
    assert rows["input"] == "standard input" and 0.2 <= rows["probability"] <= 1


def test_the_table_has_a_line_for_each_sample_and_no_formulas(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("=1+1.npy", stored_inputs(artifact)["input"])
    assert main(["predict", str(artifact), "=1+1.npy"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["input", "sample", "class", "index", "probability", *(f"output[{i}]" for i in range(5))]
    assert len(rows) == 5 and rows[1][0] == "'=1+1.npy" and rows[1][2] == rows[1][3]


def test_a_picture_is_fitted_as_the_manifest_says(pictures: Path, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "same.png")
    Image.fromarray(pixels).resize((40, 20)).save(tmp_path / "other.jpg")
    facts = json.loads((pictures / "manifest.json").read_bytes())["input"]
    classes = ["a", "b", "c", "d", "e"]
    output = json.loads((pictures / "manifest.json").read_bytes())["output"] | {"classes": classes}
    folder = edited(pictures, tmp_path / "copy", input=facts | {"scale": "pixels / 255"}, output=output)
    same, other = predicted(capsys, str(folder), str(tmp_path / "same.png"), str(tmp_path / "other.jpg"))
    expected = autocompress.load(folder)(pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255)["output"][0]
    assert same["outputs"]["output"] == pytest.approx(expected.tolist(), abs=1e-6) and same["class"] in classes
    assert other["input"].endswith("other.jpg")
    cut = edited(pictures, tmp_path / "cut", input=facts | {"files": {"fit": "crop", "resize": 12}})
    (middle,) = predicted(capsys, str(cut), str(tmp_path / "other.jpg"))
    assert middle["outputs"] != other["outputs"]


def test_a_recording_is_brought_to_rate_and_length(artifact: Path, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    wavfile.write(tmp_path / "a.wav", 8000, (1000 * np.sin(np.arange(400))).astype(np.int16))
    facts = json.loads((artifact / "manifest.json").read_bytes())["input"]
    folder = edited(artifact, tmp_path / "copy", input=facts | {"files": {"rate": 4000}})
    at_rate, as_stored = (predicted(capsys, str(f), str(tmp_path / "a.wav"))[0]["outputs"] for f in (folder, artifact))
    assert at_rate != as_stored


@pytest.mark.parametrize(("name", "data", "said"), [
    ("a.npy", b"", "has none"),
    ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr'", "intact .npy"),
    ("a.npz", b"PK\x03\x04 not an archive", "intact .npz"),
    ("a.txt", b"1 2 3\n", "20 numbers"),
    ("a.txt", b"hello\n", "tokenizer"),
    ("a.txt", b"\n\n", "empty"),
    ("a.csv", b"1,,2" + b",3" * 18, "line 1: each cell must hold a number, but one is empty"),
    ("a.csv", b"nan" + b",3" * 19, "must hold finite numbers for input 'input'"),
    ("a.csv", b"1e999" + b",3" * 19, "must hold finite numbers for input 'input'"),
    ("a.wav", b"RIFF\x00\x00\x00\x00WAVEfmt ", "intact .wav"),
    ("a.png", b"\x89PNG\r\n\x1a\n\x00\xff", "no picture"),
])
def test_what_cannot_be_read_ends_with_2(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str,
                                         data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert said in refused(capsys, str(artifact), str(tmp_path / name))


def test_inputs_that_do_not_fit_the_network_end_with_2(artifact: Path, pictures: Path, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 3)))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.zeros(20), y=np.zeros(20))
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    assert "(20)" in refused(capsys, str(artifact), str(tmp_path / "a.npy"))
    assert "intact .npy" in refused(capsys, str(artifact), str(tmp_path / "objects.npy"))
    assert "holds x, y" in refused(capsys, str(artifact), str(tmp_path / "a.npz"))
    assert "must be a picture" in refused(capsys, str(pictures), str(tmp_path / "damaged.png"))
    assert "No such file" in refused(capsys, str(artifact), str(tmp_path / "gone"))


@pytest.mark.parametrize("values", [
    np.array(["a"] * 20), np.zeros(20, complex), np.zeros(20, "datetime64[s]"), np.zeros(20, [("x", "f4")])],
    ids=["text", "complex", "times", "records"])
def test_arrays_of_other_things_than_numbers_are_refused(artifact: Path, tmp_path: Path, values: np.ndarray,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", values)
    assert "input 'input' must hold numbers, but holds" in refused(capsys, str(artifact), str(tmp_path / "a.npy"))
    with pytest.raises(InputError, match="must hold numbers"):
        autocompress.load(artifact).normalised(values[None])


@pytest.mark.parametrize("values", [np.array([[1.5, 2]]), np.array([[1e30, 2]]), np.array([[np.nan, 2]])])
def test_numbers_that_are_not_whole_are_not_cut(values: np.ndarray) -> None:
    facts = TensorFacts(name="ids", shape=["N", 2], dtype="int64")
    assert whole_numbers(facts, np.array([[1.0, 2.0]])).dtype == np.int64
    with pytest.raises(InputError, match="'ids' must hold whole numbers"):
        whole_numbers(facts, values)


def test_nothing_on_standard_input_is_said(artifact: Path, capsys: pytest.CaptureFixture[str],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert "but standard input has none" in refused(capsys, str(artifact), "-")


def test_a_line_may_end_in_a_comma(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("0.5," * 20 + "\n")
    assert len(predicted(capsys, str(artifact), str(tmp_path / "a.csv"))) == 1


def test_a_zip_bomb_is_not_unpacked(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("input.npy", b"\0" * 2**24)
    assert "zip bomb" in refused(capsys, str(artifact), str(tmp_path / "bomb.npz"))


def test_what_outputs_mean_says_whether_there_are_classes(artifact: Path) -> None:
    network: LoadedArtifact = autocompress.load(artifact)
    facts, values = network.outputs["output"], np.array([[1.0, 2.0, 0.5]])
    softmax = probabilities(values, facts)
    assert softmax is not None and softmax.sum() == pytest.approx(1)
    facts.meaning = "logarithms of class probabilities"
    logs = probabilities(np.log(softmax), facts)
    assert logs is not None and logs == pytest.approx(softmax)
    facts.meaning = "values"
    assert probabilities(values, facts) is None
    facts.meaning = "class probabilities"
    assert probabilities(softmax, facts) is softmax and probabilities(values[0], facts) is None


def test_the_file_in_place_of_its_folder_is_said(tmp_path: Path) -> None:
    """`load(".../model.onnx")` is what users of a runtime write."""
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    with pytest.raises(InputError, match=r"model\.onnx is a file: give the folder that holds it"):
        autocompress.load(file)


def test_pictures_are_read_as_the_pictures_of_a_folder_were(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for number, (height, width) in enumerate(((20, 33), (47, 16), (31, 31), (12, 12))):
        Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    for resize, size, interpolation in ((16, 12, "bilinear"), (12, 12, "bicubic"), (31, 8, "nearest")):
        for path in sorted(tmp_path.iterdir()):
            trained = square(path, resize, size, interpolation, None, Remarks())
            read = Fit("crop", (size, size), resize, interpolation).picture(upright(path, None, Remarks()))
            assert np.array_equal(read, trained)


def test_one_channel_of_three_is_their_normalised_mean(pictures: Path, tmp_path: Path) -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    one_mean, one_std, weights = one_channel(mean, std)
    facts = json.loads((pictures / "manifest.json").read_bytes())["input"]
    edited(pictures, tmp_path, input=facts | {
        "shape": ["N", 1, 12, 12], "scale": "pixels / 255", "mean": one_mean, "std": one_std,
        "files": {"grey": weights}})
    pixels = np.random.default_rng(0).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = read_samples(autocompress.load(tmp_path), str(tmp_path / "a.png")).arrays["input"]
    expected = ((pixels / 255 - mean) / std).mean(2)
    np.testing.assert_allclose(read[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("how", [{}, {"tokenizer.json": b"{"}])
def test_a_tokenizer_that_is_gone_or_damaged_is_told(artifact: Path, tmp_path: Path, how: dict[str, bytes],
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads((artifact / "manifest.json").read_bytes())["input"] | {"files": {
        "tokenizer": "tokenizer.json", "length": 20, "makes": ["input_ids"], "padding": {}, "truncation": "right"}}
    folder, lines = edited(artifact, tmp_path / "0", input=facts), tmp_path / "lines.txt"
    for number, (name, data) in enumerate(how.items(), 1):
        folder = with_file(folder, tmp_path / str(number), name, data)
    lines.write_text("a text\n")
    assert "must" in refused(capsys, str(folder), str(lines))
    lines.write_text("\n")
    assert "must hold a text in each line" in refused(capsys, str(folder), str(lines))
