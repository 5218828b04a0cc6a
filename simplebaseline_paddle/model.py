"""PoseResNet: a ResNet, three transposed convolutions and one 1x1 convolution (Xiao, Wu and Wei, ECCV 2018, section 2).

Attribute paths equal those of microsoft/human-pose-estimation.pytorch and, for the backbone, of
paddle.vision.models.resnet. Input (N,3,H,W) with H and W multiples of 32, output (N,K,H/4,W/4): raw regressions, no
sigmoid.
"""

from __future__ import annotations

import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, Normal

from common.errors import DataError
from simplebaseline_paddle.config import BLOCKS, Config, numbers_of

# Kernel of a transposed convolution of stride 2 -> (padding, output padding) that doubles the size exactly
DECONV_PADDING = {4: (1, 0), 3: (1, 1), 2: (0, 0)}
Numbers = tuple[int, ...]
SMALL = 0.001  # standard deviation of every new weight in the Paddle project, of the head's in Microsoft's


def conv(channels: int, out: int, kernel: int, init: str, stride: int = 1) -> nn.Conv2D:
    """A convolution of the backbone, without bias, padded to keep the size at stride 1.

    `init`: `kaiming` (He normal, fan out), which trains from scratch; `compat` N(0, 0.001^2), the Paddle project's
    without a pretrained backbone; `zeros` when weights come from a file.
    """
    he = Normal(0.0, (2.0 / (out * kernel**2)) ** 0.5)
    weight = ParamAttr(initializer={"kaiming": he, "compat": Normal(0.0, SMALL), "zeros": Constant(0.0)}[init])
    return nn.Conv2D(channels, out, kernel, stride, kernel // 2, weight_attr=weight, bias_attr=False)


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, style: str, init: str):
        super().__init__()
        self.conv1 = conv(channels, width, 3, init, stride)
        self.bn1 = nn.BatchNorm2D(width)
        self.conv2 = conv(width, width, 3, init)
        self.bn2 = nn.BatchNorm2D(width)
        self.relu = nn.ReLU()
        self.downsample = shortcut(channels, width, stride, init)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Layer):
    """1x1, 3x3, 1x1 convolutions; the stride is on the 3x3 one, in style `caffe` on the first 1x1."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, style: str, init: str):
        super().__init__()
        first, middle = (stride, 1) if style == "caffe" else (1, stride)
        self.conv1 = conv(channels, width, 1, init, first)
        self.bn1 = nn.BatchNorm2D(width)
        self.conv2 = conv(width, width, 3, init, middle)
        self.bn2 = nn.BatchNorm2D(width)
        self.conv3 = conv(width, width * 4, 1, init)
        self.bn3 = nn.BatchNorm2D(width * 4)
        self.relu = nn.ReLU()
        self.downsample = shortcut(channels, width * 4, stride, init)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def shortcut(channels: int, out: int, stride: int, init: str) -> nn.Sequential | None:
    """The projection of a block whose output has another shape than its input, else None (identity)."""
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(conv(channels, out, 1, init, stride), nn.BatchNorm2D(out))


class PoseResNet(nn.Layer):
    """The whole network; settings as Microsoft's files have them."""

    def __init__(
        self, depth: int = 50, joints: int = 16, style: str = "pytorch", filters: Numbers = (256, 256, 256),
        kernels: Numbers = (4, 4, 4), deconv_bias: bool = False, final_kernel: int = 1, init: str = "kaiming",
        base_width: int = 64,
    ):  # fmt: skip
        super().__init__()
        if len(filters) != len(kernels) or not set(kernels) <= set(DECONV_PADDING):
            what = f"no PoseResNet has deconv_filters {filters} and deconv_kernels {kernels}"
            raise DataError(f"{what}; give as many of both, kernels 2 to 4")
        block = BasicBlock if depth < 50 else Bottleneck
        self.conv1 = conv(3, base_width, 7, init, 2)
        self.bn1 = nn.BatchNorm2D(base_width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2D(3, stride=2, padding=1)
        channels = base_width
        for stage, count in enumerate(BLOCKS[depth]):
            width = base_width * 2**stage
            blocks = []
            for b in range(count):
                blocks.append(block(channels, width, 2 if stage and not b else 1, style, init))
                channels = width * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.deconv_layers = nn.Sequential(*deconv_stack(channels, filters, kernels, deconv_bias, init))
        weight, bias = head_init(init)
        how = {"padding": final_kernel // 2, "weight_attr": weight, "bias_attr": bias}
        self.final_layer = nn.Conv2D(filters[-1] if filters else channels, joints, final_kernel, **how)

    def forward(self, image):
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.final_layer(self.deconv_layers(x))


def deconv_stack(channels: int, filters: Numbers, kernels: Numbers, bias: bool, init: str) -> list[nn.Layer]:
    """Transposed convolution, batch norm and ReLU for every entry of `filters`."""
    layers: list[nn.Layer] = []
    for out, kernel in zip(filters, kernels, strict=True):
        weight, offset = head_init(init)
        how: dict = {"weight_attr": weight, "bias_attr": offset if bias else False}
        grow = nn.Conv2DTranspose(channels, out, kernel, 2, *DECONV_PADDING[kernel], **how)
        layers += [grow, nn.BatchNorm2D(out), nn.ReLU()]
        channels = out
    return layers


def head_init(init: str) -> tuple[ParamAttr, ParamAttr]:
    """Weights and biases of the head: N(0, 0.001^2) and 0, as in both originals."""
    weight = Constant(0.0) if init == "zeros" else Normal(0.0, SMALL)
    return ParamAttr(initializer=weight), ParamAttr(initializer=Constant(0.0))


def build_model(config: Config, joints: int, seed: int | None = None) -> PoseResNet:
    """A network with random weights that `seed` makes repeatable; without one all zero, for weights from a file."""
    if seed is not None:
        paddle.seed(seed)
    head: dict = {"filters": numbers_of(config.deconv_filters), "kernels": numbers_of(config.deconv_kernels)}
    head |= {"deconv_bias": config.deconv_bias, "final_kernel": config.final_kernel}
    init = "zeros" if seed is None else config.init
    return PoseResNet(config.depth, joints, config.style, init=init, base_width=config.base_width, **head)
