"""Each kind of task, from files of each source to an exported file, from the command line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile
from tiny_hugging_face import WORDS, save_bert

import autocompress
from autocompress.artifact.inputs import read_samples
from autocompress.artifact.samples import unpack_samples
from autocompress.study.settings import SearchSettings
from autocompress.tasks.kinds.names import is_kind
from autocompress.tasks.sources.specs import parsed

Cli = Callable[..., Any]
NETS = '''
import torch
from torch import nn

def seeded(network):
    torch.manual_seed(0)
    return network()

def table():
    return seeded(lambda: nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1)))

def sounds():
    return seeded(lambda: nn.Sequential(nn.Conv1d(1, 8, 9, 4), nn.ReLU(), nn.Conv1d(8, 16, 9, 4), nn.ReLU(),
                                        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 2)))

def maps():
    return seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
                                        nn.Conv2d(8, 2, 1)))

def vectors():
    return seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                                        nn.Linear(32, 16)))

class Boxes(nn.Module):
    """A box in each cell of 4 pixels: scores of two classes, and distances from the cell's middle to the edges."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.scores, self.edges = nn.Conv2d(16, 2, 1), nn.Conv2d(16, 4, 1)

    def forward(self, pictures):
        features = self.body(pictures)
        return {"scores_map": self.scores(features), "edges": self.edges(features).relu()}

    def decode(self, outputs):
        return decode(outputs)

def boxes():
    return seeded(Boxes)

class Bare(Boxes):
    decode = None

def bare():
    return seeded(Bare)

def decode(outputs):
    """The surest class of each cell; there is nothing to suppress."""
    scores, edges = outputs["scores_map"].sigmoid(), outputs["edges"]
    height, width = scores.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) * 4 + 2.0, torch.arange(width) * 4 + 2.0, indexing="ij")
    found = torch.stack([x - edges[:, 0], y - edges[:, 1], x + edges[:, 2], y + edges[:, 3]], -1).flatten(1, 2)
    best, labels = scores.flatten(2).max(1)
    return [{"boxes": found[i], "scores": best[i], "labels": labels[i]} for i in range(len(found))]

class Pair(nn.Module):
    """Two inputs, one of them whole numbers that are optional."""

    def __init__(self):
        super().__init__()
        self.first, self.table, self.last = nn.Linear(6, 16), nn.Embedding(5, 16), nn.Linear(16, 3)

    def forward(self, numbers, kind=None):
        hidden = self.first(numbers)
        return self.last(torch.relu(hidden if kind is None else hidden + self.table(kind)))

def pair():
    return seeded(Pair)

def largest(outputs, batch):
    return float((outputs["output"].argmax(1) == batch["target"].numpy()).mean())
'''


@pytest.fixture(scope="module", autouse=True)
def short(short_searches: None) -> None:
    """Nothing here hangs on how well a network recovers."""


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nets") / "nets.py"
    path.write_text(NETS)
    return path


def searched(cli: Cli, nets: Path, factory: str, data: str, out: Path, *more: str) -> dict[str, Any]:
    """The document of a whole search, and beside it the manifest of what it exported."""
    run = cli("search", "--model", f"{nets}:{factory}" if ":" not in factory else factory, "--data", data, "--trials",
              "2", "--epochs", "1", "--effort", "fast", "--out", str(out / "study"), "--json", *more)
    assert run.code == 0, run.err
    document: dict[str, Any] = run.document
    assert document["artifact"]["verified"] is True
    document["manifest"] = json.loads((out / "study" / "artifact" / "manifest.json").read_text())
    document["said"] = run.err
    return document


def reads_as_trained(cli: Cli, out: Path, files: list[Path]) -> None:
    """The artefact of a search reads files as the task did: each sample that ships with it is that of a file, and
    `predict` says of the file what the network answers to the sample."""
    folder = out / "study" / "artifact"
    network = autocompress.load(folder)
    stored, _ = unpack_samples((folder / "samples.safetensors").read_bytes(), "samples")
    read = [(file, row, {name: values[row:row + 1] for name, values in samples.arrays.items()})
            for file in files for samples in (read_samples(network, str(file)),) for row in range(samples.count)]
    for number in range(len(next(iter(stored.values())))):
        sample = {name: values[number:number + 1] for name, values in stored.items()}
        same = [(file, row) for file, row, arrays in read
                if all(np.allclose(arrays[name], values, atol=1e-6) for name, values in sample.items())]
        assert same, "no file is read as the task reads it"
        file, row = same[0]
        said = cli("predict", str(folder), str(file), "--json").document["predictions"][row]["outputs"]
        for name, answers in network(**sample).items():
            np.testing.assert_allclose(np.array(said[name]), answers[0], rtol=1e-4, atol=1e-4)


def pictures(folder: Path, count: int, draw: Callable[[np.ndarray, int], None]) -> None:
    """Noise of 16×16 pixels on which `draw` marks something, by number."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 80, (16, 16, 3), dtype=np.uint8)
        draw(pixels, number)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def test_regression_of_a_table(cli: Cli, nets: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 4))
    lines = [",".join(map(str, [*row, row.sum()])) for row in rows.round(3)]
    (tmp_path / "table.csv").write_text("\n".join(["a,b,c,d,price", *lines]))
    data = f"csv:{tmp_path}/table.csv?target=price"
    document = searched(cli, nets, "table", data, tmp_path, "--task", "regression")
    assert document["study"]["metric"]["name"] == "rmse" and {"rmse", "r2"} <= set(document["best"]["metrics"])


def test_classification_of_sounds(cli: Cli, nets: Path, tmp_path: Path) -> None:
    for number in range(30):
        path = tmp_path / "sounds" / ("low" if number % 2 else "high") / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        wavfile.write(path, 8000, (np.sin(np.arange(200) * (0.2 if number % 2 else 1.0)) * 9999).astype(np.int16))
    document = searched(cli, nets, "sounds", f"audio:{tmp_path}/sounds", tmp_path)
    assert document["study"]["metric"]["name"] == "accuracy"
    assert document["manifest"]["output"]["classes"] == ["high", "low"]
    assert "inputs were given one channel" in document["said"]
    reads_as_trained(cli, tmp_path, sorted((tmp_path / "sounds").rglob("*.wav")))


def test_segmentation_of_pictures(cli: Cli, nets: Path, tmp_path: Path) -> None:
    def masked(pixels: np.ndarray, number: int) -> None:
        mask = np.zeros((16, 16), np.uint8)
        mask[:, : 4 + number % 8], mask[0] = 1, 255
        pixels[:, : 4 + number % 8] += 120
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")

    pictures(tmp_path / "images", 20, masked)
    document = searched(cli, nets, "maps", f"masks:{tmp_path}/images,{tmp_path}/masks", tmp_path)
    assert document["study"]["metric"]["name"] == "miou" and 0 <= document["best"]["metrics"]["miou"] <= 1
    assert document["manifest"]["input"]["scale"] == "pixels / 255" and len(document["manifest"]["input"]["mean"]) == 3
    reads_as_trained(cli, tmp_path, sorted((tmp_path / "images").iterdir()))


def test_embedding_of_pictures(cli: Cli, nets: Path, tmp_path: Path) -> None:
    for split, count in (("train", 10), ("val", 5), ("test", 5)):
        for label in range(3):
            pictures(tmp_path / "people" / split / str(label), count,
                     lambda pixels, _, at=label: pixels[4 * at:4 * at + 4].fill(255))
    document = searched(cli, nets, "vectors", f"imagefolder:{tmp_path}/people", tmp_path, "--task", "embedding",
                        "--image-size", "16")
    assert document["study"]["metric"]["name"] == "recall_at_1"
    assert document["best"]["metrics"]["recall_at_1"] > 0.9 and document["best"]["metrics"]["cosine"] > 0.5
    assert document["manifest"]["input"]["files"] == {"fit": "crop", "resize": 16, "interpolation": "bilinear"}
    reads_as_trained(cli, tmp_path, sorted((tmp_path / "people").rglob("*.png")))


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The spec of pictures with a box each."""
    folder = tmp_path_factory.mktemp("cells")
    boxes = [(4 * (number % 3), 4 * (number % 2), 8, 8) for number in range(20)]

    def marked(pixels: np.ndarray, number: int) -> None:
        left, upper, width, height = boxes[number]
        pixels[upper:upper + height, left:left + width] += 120

    pictures(folder / "images", 20, marked)
    (folder / "boxes.json").write_text(json.dumps({
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(20)],
        "annotations": [{"image_id": number, "category_id": 1 + number % 2, "bbox": box}
                        for number, box in enumerate(boxes)],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "white"}]}))
    return f"coco:{folder}/boxes.json,{folder}/images"


def test_detection_by_the_networks_own_decode(cli: Cli, nets: Path, cells: str, tmp_path: Path) -> None:
    document = searched(cli, nets, "boxes", cells, tmp_path)
    assert document["study"]["metric"]["name"] == "map50" and {"map50", "map"} <= set(document["best"]["metrics"])
    reads_as_trained(cli, tmp_path, sorted(Path(cells.partition(",")[2]).iterdir()))


def test_detection_needs_boxes(cli: Cli, nets: Path, cells: str) -> None:
    command = ("search", "--model", f"{nets}:bare", "--data", cells, "--budget", "5kB")
    refused = cli(*command)
    assert refused.code == 2 and "give the network a method decode(outputs), or a function by --decode" in refused.err
    refused = cli(*command, "--decode", f"{nets}:largest")
    assert refused.code == 2 and "decode must take what the network's forward returns" in refused.err


def test_two_inputs_and_a_metric_of_ones_own(cli: Cli, nets: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(60, 6)).astype(np.float32)
    np.savez(tmp_path / "pairs.npz", numbers=numbers, kind=np.arange(60) % 5, labels=numbers[:, :3].argmax(1))
    document = searched(cli, nets, "pair", f"npz:{tmp_path}/pairs.npz", tmp_path, "--metric", f"{nets}:largest")
    assert document["study"]["metric"]["name"] == "largest"
    assert {"accuracy", "largest"} <= set(document["best"]["metrics"])
    assert [each["name"] for each in document["manifest"]["inputs"]] == ["numbers", "kind"]


def test_without_labels_the_original_is_the_measure(cli: Cli, nets: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "alone.npz", x=np.random.default_rng(0).normal(size=(60, 4)))
    document = searched(cli, nets, "table", f"npz:{tmp_path}/alone.npz", tmp_path, "--task", "regression")
    assert document["study"]["metric"]["name"] == "distance"


@pytest.mark.parametrize(("flags", "said"), [
    (("--task", "regresion"), "did you mean 'regression'?"),
    (("--task", "detection"), "detection is measured by boxes"),
    (("--task", "regression", "--metric", "rsme"), "did you mean 'rmse'?"),
    (("--task", "regression", "--metric", "accuracy"), "must be 0 or 1, or -1 or 1, but one is 0.5"),
    (("--task", "classification"), "labels must be integers"),
    (("--task", "text"), "labels must be integers"),
    (("--task", "segmentation"), "the network must put out maps of scores (N, classes, H, W)"),
])
def test_kinds_that_do_not_fit(cli: Cli, nets: Path, tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    (tmp_path / "table.csv").write_text("a,b,c,d,price\n" + "1,2,3,4,0.5\n5,6,7,8,0.25\n" * 10)
    refused = cli("search", "--model", f"{nets}:table", "--data", f"csv:{tmp_path}/table.csv?target=price", "--budget",
                  "1kB", *flags)
    assert refused.code == 2 and said in refused.err, refused.err


def test_text_by_a_network_of_transformers_and_its_tokenizer(cli: Cli, nets: Path, tmp_path: Path) -> None:
    save_bert(tmp_path / "bert", num_labels=2)
    rng = np.random.default_rng(0)
    rows = [f'"{" ".join(rng.choice(WORDS, 3 + number % 5))}",{number % 2}' for number in range(40)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]))
    document = searched(cli, nets, f"hf:{tmp_path}/bert", f"csv:{tmp_path}/texts.csv", tmp_path, "--task", "text",
                        "--space", "int8", "--sampler", "random")
    assert document["study"]["metric"]["name"] == "accuracy"
    assert [(each["name"], each["dtype"], each["shape"]) for each in document["manifest"]["inputs"]] == [
        ("input_ids", "int64", ["N", 16]), ("attention_mask", "int64", ["N", 16])]
    assert "texts have up to 9 tokens, and are cut or padded to 16, which cuts 0 of 40" in document["said"]
    (tmp_path / "lines.txt").write_text("\n".join(row.rsplit(",", 1)[0].strip('"') for row in rows) + "\n")
    reads_as_trained(cli, tmp_path, [tmp_path / "lines.txt"])
    refused = cli("search", "--model", f"{nets}:table", "--data", f"csv:{tmp_path}/texts.csv?text=text", "--budget",
                  "1kB")
    assert refused.code == 2 and "a tokenizer must turn into tokens: give the network as --model hf:" in refused.err


def documented() -> list[list[str]]:
    """The commands of docs/tasks.md that say what they are of."""
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text("utf-8").replace("\\\n", " ")
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("autocompress search ")]
    return [line for line in lines if "SOURCE" not in line]


@pytest.mark.parametrize("command", documented(), ids=lambda command: command[3])
def test_documented_commands_are_understood(command: list[str]) -> None:
    flags = dict(zip(command[2::2], command[3::2], strict=True))
    settings = SearchSettings.of(**{flag[2:].replace("-", "_"): int(value) if value.isdecimal() else value
                                    for flag, value in flags.items()})
    assert parsed(settings.data).paths and (settings.task is None or is_kind(settings.task))
