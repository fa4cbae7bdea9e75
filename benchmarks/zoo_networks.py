"""Networks of the zoo beside classifiers: segmentation, detection, video, text, speech, and U-Nets as users write them.

Each has random weights. Transformers have the widths of their published configuration and fewer layers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.tensors.named import NamedTensors

CLASSES = 10
WORDS, LENGTH, LAYERS = 500, 16, 2

SEGMENTATION = ("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet50",
                "fcn_resnet101", "lraspp_mobilenet_v3_large")
DETECTION = ("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn", "ssd300_vgg16",
             "ssdlite320_mobilenet_v3_large", "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2",
             "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn", "maskrcnn_resnet50_fpn",
             "keypointrcnn_resnet50_fpn")
VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d")
# Class of the configuration, class of the network, and what the configuration is told beside its defaults.
TEXT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertModel", {}),
    "bert-classifier": ("BertConfig", "BertForSequenceClassification", {"num_labels": CLASSES}),
    "bert-tokens": ("BertConfig", "BertForTokenClassification", {"num_labels": CLASSES}),
    "distilbert": ("DistilBertConfig", "DistilBertModel", {"n_layers": LAYERS}),
    "roberta": ("RobertaConfig", "RobertaModel", {}),
    "electra": ("ElectraConfig", "ElectraModel", {}),
    "albert": ("AlbertConfig", "AlbertModel", {"hidden_size": 256, "intermediate_size": 1024,
                                               "num_attention_heads": 4}),
    "mpnet": ("MPNetConfig", "MPNetModel", {}),
    "mobilebert": ("MobileBertConfig", "MobileBertModel", {}),
    "squeezebert": ("SqueezeBertConfig", "SqueezeBertModel", {}),
    "deberta-v2": ("DebertaV2Config", "DebertaV2Model", {"hidden_size": 384, "num_attention_heads": 6,
                                                         "intermediate_size": 1024}),
    "clip-text": ("CLIPTextConfig", "CLIPTextModel", {}),
}
PICTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTConfig", "ViTModel", {"image_size": 64}),
    "vit-classifier": ("ViTConfig", "ViTForImageClassification", {"image_size": 64, "num_labels": CLASSES}),
    "deit": ("DeiTConfig", "DeiTModel", {"image_size": 64}),
    "dinov2": ("Dinov2Config", "Dinov2Model", {"image_size": 56}),
    "convnext": ("ConvNextConfig", "ConvNextModel", {}),
    "resnet": ("ResNetConfig", "ResNetModel", {}),
    "segformer": ("SegformerConfig", "SegformerForSemanticSegmentation", {"num_labels": CLASSES}),
    "mobilevit": ("MobileViTConfig", "MobileViTModel", {"image_size": 64}),
    "clip-vision": ("CLIPVisionConfig", "CLIPVisionModel", {"image_size": 64}),
    "yolos": ("YolosConfig", "YolosForObjectDetection", {"image_size": [64, 64]}),
}
SPEECH: dict[str, tuple[str, str, dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2Config", "Wav2Vec2Model", {}),
    "hubert": ("HubertConfig", "HubertModel", {}),
    "whisper-encoder": ("WhisperConfig", "WhisperModel", {"d_model": 384, "encoder_layers": LAYERS,
                                                          "encoder_attention_heads": 6, "decoder_layers": 1,
                                                          "decoder_attention_heads": 6, "encoder_ffn_dim": 1536,
                                                          "max_source_positions": 50}),
}


class Raw(nn.Module):
    """A detector of torchvision up to the raw outputs of its head: decoding and suppression belong to the metric."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.rpn.head if hasattr(detector, "rpn") else detector.head

    def forward(self, pixels: Tensor) -> Any:
        return self.head([*self.backbone(pixels).values()])


class Block(nn.Sequential):
    """Two convolutions, each with a norm of the given kind."""

    def __init__(self, read: int, write: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__(nn.Conv2d(read, write, 3, padding=1), norm(write), nn.ReLU(),
                         nn.Conv2d(write, write, 3, padding=1), norm(write), nn.ReLU())


class UNet(nn.Module):
    """A U-Net (Ronneberger et al., 2015) with skips by concatenation or by sums.

    Args:
        norm: makes a norm of so many channels.
        up: `transposed`, `bilinear` or `shuffle`.
        skips: `concatenated` or `added`.
    """

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, up: str = "transposed",
                 skips: str = "concatenated", widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.skips = skips
        reads = (3, *widths)
        self.down = nn.ModuleList(Block(read, write, norm) for read, write in zip(reads, widths, strict=False))
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.up.append({
                "transposed": lambda w=wide, n=narrow: nn.ConvTranspose2d(w, n, 2, 2),
                "bilinear": lambda w=wide, n=narrow: nn.Sequential(
                    nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), nn.Conv2d(w, n, 1)),
                "shuffle": lambda w=wide, n=narrow: nn.Sequential(nn.Conv2d(w, 4 * n, 1), nn.PixelShuffle(2)),
            }[up]())
            self.merge.append(Block(narrow if skips == "added" else 2 * narrow, narrow, norm))
        self.head = nn.Conv2d(widths[0], CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for i, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if i else x)
            kept.append(x)
        for up, merge, skip in zip(self.up, self.merge, kept[-2::-1], strict=True):
            x = up(x)
            x = merge(x + skip if self.skips == "added" else torch.cat([skip, x], 1))
        return self.head(x)  # type: ignore[no-any-return]


UNETS: dict[str, Callable[[], nn.Module]] = {
    "unet": UNet,
    "unet-bilinear": lambda: UNet(up="bilinear"),
    "unet-shuffle": lambda: UNet(up="shuffle"),
    "unet-groupnorm": lambda: UNet(lambda width: nn.GroupNorm(4, width)),
    "unet-instancenorm": lambda: UNet(lambda width: nn.InstanceNorm2d(width, affine=True)),
    "linknet": lambda: UNet(skips="added"),
}


def names() -> list[str]:
    """All of them, as `family:NAME`."""
    families = {"unet": UNETS, "video": VIDEO, "segmentation": SEGMENTATION, "hf-text": TEXT, "hf-picture": PICTURES,
                "hf-speech": SPEECH, "detection": DETECTION}
    return [f"{family}:{name}" for family, members in families.items() for name in members]


def build(name: str, samples: int) -> tuple[nn.Module, Any]:
    """A network in eval mode and inputs for it."""
    family, _, member = name.partition(":")
    generator = torch.Generator().manual_seed(0)

    def pixels(*shape: int) -> Tensor:
        return torch.randn(samples, *shape, generator=generator)

    if family == "unet":
        return UNETS[member]().eval(), pixels(3, 32, 32)
    if family.startswith("hf-"):
        return _transformer(family, member, samples, generator)
    models = importlib.import_module("torchvision").models
    if family == "video":
        size = 224 if member == "s3d" else 64
        return models.get_model(member, weights=None, num_classes=CLASSES).eval(), pixels(3, 16, size, size)
    if family == "segmentation":
        return models.get_model(member, weights=None, weights_backbone=None, num_classes=CLASSES).eval(), \
            pixels(3, 64, 64)
    detector = models.get_model(member, weights=None, weights_backbone=None, num_classes=CLASSES)
    return Raw(detector).eval(), pixels(3, *{"ssd300_vgg16": (300, 300)}.get(member, (128, 128)))


def _transformer(family: str, member: str, samples: int, generator: torch.Generator) -> tuple[nn.Module, Any]:
    library = importlib.import_module("transformers")
    kinds = {"hf-text": TEXT, "hf-picture": PICTURES, "hf-speech": SPEECH}[family]
    configuration, network, more = kinds[member]
    layers = {} if member in ("distilbert", "convnext", "resnet", "segformer", "mobilevit", "whisper-encoder") else \
        {"num_hidden_layers": LAYERS}
    words = {"vocab_size": WORDS} if family == "hf-text" else {}
    model = getattr(library, network)(getattr(library, configuration)(**(layers | words | more))).eval()
    if family == "hf-text":
        lengths = torch.randint(4, LENGTH + 1, (samples, 1), generator=generator)
        return model, NamedTensors(
            input_ids=torch.randint(3, WORDS, (samples, LENGTH), generator=generator),
            attention_mask=(torch.arange(LENGTH) < lengths).long())
    if member == "whisper-encoder":
        return model.encoder, torch.randn(samples, 80, 100, generator=generator)
    if family == "hf-speech":
        return model, torch.randn(samples, 3200, generator=generator)
    size = 56 if member == "dinov2" else 64
    return model, torch.randn(samples, 3, size, size, generator=generator)
