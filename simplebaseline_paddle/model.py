"""PoseResNet: a ResNet, three transposed convolutions and one 1x1 convolution (Xiao, Wu and Wei, ECCV 2018, section 2).

Attribute paths equal those of microsoft/human-pose-estimation.pytorch and, for the backbone, of
paddle.vision.models.resnet. Input (N,3,H,W) with H and W multiples of 32, output (N,K,H/4,W/4): raw regressions, no
sigmoid.
"""

from __future__ import annotations

import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, Normal

from simplebaseline_paddle.config import BLOCKS, Config, numbers_of
from simplebaseline_paddle.data import normalise

SMALL = 0.001  # standard deviation of every new weight in the Paddle project, of the head's in Microsoft's


def conv(channels: int, out: int, kernel: int, init: str, stride: int = 1) -> nn.Conv2D:
    """A convolution of the backbone, without bias, padded to keep the size at stride 1.

    `init`: `he` (normal, fan out), which trains from scratch; `small` N(0, 0.001^2), the Paddle project's without a
    pretrained backbone; `zeros` when weights come from a file.
    """
    he = Normal(0.0, (2.0 / (out * kernel**2)) ** 0.5)
    weight = ParamAttr(initializer={"he": he, "small": Normal(0.0, SMALL), "zeros": Constant(0.0)}[init])
    return nn.Conv2D(channels, out, kernel, stride, kernel // 2, weight_attr=weight, bias_attr=False)


class Block(nn.Layer):
    """A residual block: convolutions of 3x3 and 3x3 (ResNet-18, -34), or 1x1, 3x3 and 1x1 (deeper ones).

    The stride is on the first 3x3, in style `caffe` on the first of all.
    """

    def __init__(self, channels: int, width: int, out: int, stride: int, style: str, init: str):
        super().__init__()
        self.deep = out > width
        first, second = (stride, 1) if style == "caffe" or not self.deep else (1, stride)
        self.conv1 = conv(channels, width, 1 if self.deep else 3, init, first)
        self.bn1 = nn.BatchNorm2D(width)
        self.conv2 = conv(width, width, 3, init, second)
        self.bn2 = nn.BatchNorm2D(width)
        if self.deep:
            self.conv3 = conv(width, out, 1, init)
            self.bn3 = nn.BatchNorm2D(out)
        self.relu = nn.ReLU()
        self.downsample = None
        if stride > 1 or channels != out:
            self.downsample = nn.Sequential(conv(channels, out, 1, init, stride), nn.BatchNorm2D(out))

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.deep:
            out = self.bn3(self.conv3(self.relu(out)))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class PoseResNet(nn.Layer):
    """The whole network; settings as Microsoft's files have them."""

    def __init__(
        self, depth: int = 50, joints: int = 16, style: str = "pytorch", filters: tuple[int, ...] = (256, 256, 256),
        init: str = "he", base_width: int = 64,
    ):  # fmt: skip
        super().__init__()
        self.conv1 = conv(3, base_width, 7, init, 2)
        self.bn1 = nn.BatchNorm2D(base_width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2D(3, stride=2, padding=1)
        channels = base_width
        for stage, count in enumerate(BLOCKS[depth]):
            width = base_width * 2**stage
            out, blocks = width if depth < 50 else 4 * width, []
            for b in range(count):
                blocks.append(Block(channels, width, out, 2 if stage and not b else 1, style, init))
                channels = out
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        # the head starts from N(0, 0.001^2) and 0, as in both originals
        small = ParamAttr(initializer=Constant(0.0) if init == "zeros" else Normal(0.0, SMALL))
        layers: list[nn.Layer] = []
        for out in filters:
            grow = nn.Conv2DTranspose(channels, out, 4, 2, 1, weight_attr=small, bias_attr=False)
            layers += [grow, nn.BatchNorm2D(out), nn.ReLU()]
            channels = out
        self.deconv_layers = nn.Sequential(*layers)
        zero = ParamAttr(initializer=Constant(0.0))
        self.final_layer = nn.Conv2D(channels, joints, 1, weight_attr=small, bias_attr=zero)

    def forward(self, image):
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.final_layer(self.deconv_layers(x))


class FromPictures(nn.Layer):
    """A network behind its normalisation: pictures (N,H,W,3) uint8 BGR cross to the device, not four times as much."""

    def __init__(self, network: nn.Layer, colour: str):
        super().__init__()
        self.network, self.colour = network, colour

    def forward(self, image):
        return self.network(normalise(image, self.colour))


def build_model(config: Config, joints: int, seed: int | None = None) -> PoseResNet:
    """A network with random weights that `seed` makes repeatable; without one all zero, for weights from a file."""
    if seed is not None:
        paddle.seed(seed)
    init = "zeros" if seed is None else "small" if config.mode == "compat" else "he"
    return PoseResNet(config.depth, joints, config.style, numbers_of(config.deconv_filters), init, config.base_width)
