"""MTCNN's nets of facenet-pytorch, which put out boxes beside probabilities, on faces and other cut-outs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from subject import Arrays, Measured, Subject, packages
from torch import Tensor, nn

import autocompress

HERE = Path(__file__).resolve()
SIDES = {"RNet": 24, "ONet": 48}
CUTS = {"train": (0, 50), "val": (50, 65), "test": (65, 100)}


def _net(name: str) -> nn.Module:
    """A network of the package, which itself imports more than that needs."""
    source = packages("facenet_pytorch/models/mtcnn.py").read_text().replace(
        "from .utils.detect_face import detect_face, extract_face\n", "")
    spec = importlib.util.spec_from_loader("mtcnn_nets", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec(compile(source, "mtcnn.py", "exec"), module.__dict__)
    network: nn.Module = module.__dict__[name](pretrained=False)
    network.load_state_dict(torch.load(packages(f"facenet_pytorch/data/{name.lower()}.pt"), weights_only=True))
    return network.eval()


def rnet() -> nn.Module:
    """R-Net: `(N, 3, 24, 24)` → boxes `(N, 4)` and probabilities `(N, 2)`."""
    return _net("RNet")


def onet() -> nn.Module:
    """O-Net: `(N, 3, 48, 48)` → boxes, landmarks `(N, 10)` and probabilities."""
    return _net("ONet")


@cache
def _cut_outs(split: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut-outs `(N, 3, side, side)` as the package scales them, and whether they are of faces: those of scikit-image's
    faces and non-faces, each also mirrored and twice a little closer."""
    whole = np.load(packages("skimage/data/lfw_subset.npy"))
    start, end = CUTS[split]
    rows = [*range(start, end), *range(100 + start, 100 + end)]
    pictures, labels = [], []
    for row in rows:
        picture = Image.fromarray((255 * whole[row]).astype(np.uint8)).convert("RGB")
        for closer in (0, 1, 2):
            cut = picture.crop((closer, closer, 25 - closer, 25 - closer)).resize((side, side),
                                                                                  Image.Resampling.BILINEAR)
            pixels = (np.asarray(cut, np.float32).transpose(2, 0, 1) - 127.5) / 128
            pictures += [pixels, pixels[:, :, ::-1]]
            labels += [int(row < 100)] * 2
    return np.stack(pictures).astype(np.float32), np.array(labels)


def is_face(output: str, outputs: Mapping[str, np.ndarray], batch: Mapping[str, Tensor]) -> float:
    """How often the surer class is right."""
    return float((outputs[output].argmax(1) == batch["face"].numpy()).mean())


def _task(name: str, output: str) -> autocompress.Task:
    splits = {}
    for split in CUTS:
        pictures, labels = map(torch.from_numpy, _cut_outs(split, SIDES[name]))
        splits[split] = {"x": pictures, "face": labels}
    return autocompress.Task(splits["train"], splits["val"], splits["test"], name="faces", metric=[
        autocompress.metric(partial(is_face, output), name="is_face", unit="%"),
        autocompress.metric("rmse", predictions="output_0", targets="original", name="box_error")])


def rnet_task() -> autocompress.Task:
    """Telling faces from others, and their boxes, by R-Net."""
    return _task("RNet", "output_1")


def onet_task() -> autocompress.Task:
    """The same by O-Net."""
    return _task("ONet", "output_2")


def _subject(name: str, make: Callable[[], nn.Module], task: str, outputs: int, about: str) -> Subject:
    side = SIDES[name]

    def inputs(split: str) -> Arrays:
        return {"x": _cut_outs(split, side)[0]}

    def measure(outputs_of: Mapping[str, Any]) -> Measured:
        right = outputs_of[f"output_{outputs - 1}"].argmax(1) == _cut_outs("test", side)[1]
        return Measured(right.astype(np.float64).reshape(-1, 6).mean(1))

    return Subject(
        f"MTCNN {name}", "detector", f"{about} of facenet-pytorch, its own weights, on 25-pixel cut-outs of "
        "scikit-image, 70 faces and others of test, six views each", make,
        lambda: ["--model", f"{HERE}:{make.__name__}", "--task", f"{HERE}:{task}"], inputs, measure, "accuracy",
        outputs=tuple(f"output_{i}" for i in range(outputs)), reported="is_face")


RNET = _subject("RNet", rnet, "rnet_task", 2, "R-Net")
ONET = _subject("ONet", onet, "onet_task", 3, "O-Net")
