"""ResNet-18 for the grey 28×28 pictures and ten classes of Fashion-MNIST."""

from __future__ import annotations

from torch import nn

from autocompress.tasks.vision import import_torchvision


def resnet18_fashion() -> nn.Module:
    """Input (N, 1, 28, 28). The stem is made for small pictures: a 3×3 convolution with stride 2, no pooling.

    A 7×7 stem and a pooling layer, as for 224 pixels, would leave one pixel to the last stage.
    """
    model: nn.Module = import_torchvision().models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, kernel_size=3, stride=2, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model
