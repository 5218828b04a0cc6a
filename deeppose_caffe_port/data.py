"""Data layers: what their sources read -> the network's input, transformed on the device; and making LMDBs.

What crosses to the device is uint8; mean and scale are applied there.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from common.images import write_lmdb
from common.weights.caffe import read_blob, write_blob
from common.weights.caffe_messages import messages
from deeppose_caffe_port.images import Unread, read_picture, resize
from deeppose_caffe_port.layers import LARGEST, Layer, Shape, layer
from deeppose_caffe_port.random_stream import fill
from deeppose_caffe_port.sources import Hdf5Source, ImageList, LmdbSource, Source

_PORTION = 1000  # records


class Fed(Layer):
    """A layer whose tops come from outside: given by the caller, or out of its `source`."""

    bottoms = (0, 0)
    source: Source | None = None

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        return given


@layer("Input", "MemoryData")
class Input(Fed):
    """Blobs that the caller gives."""

    def setup(self, shapes: list[Shape]) -> None:
        tops, m = len(self.param.top), self.param.memory_data_param
        found = [tuple(s.dim) for s in self.param.input_param.shape]
        if self.kind == "MemoryData":
            found = [(m.batch_size, m.channels, m.height, m.width), (m.batch_size,)][:tops]
        found = found * tops if len(found) == 1 else found
        if len(found) != tops or any(n < 1 for shape in found for n in shape):
            raise self.error(f"has {tops} tops and shapes {found}; give one shape, or one for each top")
        self.top_shapes = found


@layer("DummyData")
class DummyData(Layer):
    """Blobs from fillers: constant ones once, others anew in each pass of training."""

    bottoms = (0, 0)

    def setup(self, shapes: list[Shape]) -> None:
        p, tops = self.param.dummy_data_param, len(self.param.top)
        sizes = [list(values) for values in (p.num, p.channels, p.height, p.width)]
        found = [tuple(s.dim) for s in p.shape] or list(zip(*(s * tops if len(s) == 1 else s for s in sizes)))
        fillers = list(p.data_filler) or [messages()["FillerParameter"]()]
        self.top_shapes = found * tops if len(found) == 1 else found
        self.fillers = fillers * tops if len(fillers) == 1 else fillers
        if not len(self.top_shapes) == len(self.fillers) == tops or max(map(prod, self.top_shapes)) > LARGEST:
            raise self.error(f"has {tops} tops, {len(found)} shapes and {len(fillers)} fillers; give one, or one each")
        for i, (filler, shape) in enumerate(zip(self.fillers, self.top_shapes)):
            values = torch.from_numpy(fill(filler, shape, self.context.random, self.where))
            self.register_buffer(f"top{i}", values, persistent=False)

    def forward(self) -> tuple[Tensor, ...]:
        for i, (filler, shape) in enumerate(zip(self.fillers, self.top_shapes)):
            if self.training and filler.type != "constant":
                values = fill(filler, shape, self.context.random, self.where)
                getattr(self, f"top{i}").copy_(torch.from_numpy(np.ascontiguousarray(values)))
        return tuple(getattr(self, f"top{i}") for i in range(len(self.top_shapes)))


@layer("HDF5Data")
class Hdf5Data(Fed):
    """Rows of HDF5 files; the list of files is `source`."""

    def setup(self, shapes: list[Shape]) -> None:
        self.source = Hdf5Source(self.param.hdf5_data_param, list(self.param.top), self.context)
        self.top_shapes = [(self.source.batch_size, *array.shape[1:]) for array in self.source.arrays]


@layer("Data", "ImageData")
class Data(Fed):
    """Pixels and labels of an LMDB or of a list of images; `forward` applies transform_param: mean, scale, crop, mirror.
    Without the data its tops are what a caller gives, in the shape of the crop."""

    def setup(self, shapes: list[Shape]) -> None:
        p, t, c = self.param.data_param, self.param.transform_param, self.context
        p = self.param.image_data_param if self.kind == "ImageData" else p
        if t.force_color and t.force_gray:
            raise self.error("has force_color and force_gray; give one of the two")
        if not c.data:
            if not t.crop_size:
                raise self.error("has no crop_size, so that only its data tell its shape; give the deploy prototxt")
            labels = (p.label_num, 1, 1) if self.kind == "Data" and p.label_num else ()
            channels, count = 1 if t.force_gray else max(len(t.mean_value), 3), max(p.batch_size, 1)
            self.top_shapes = [(count, channels, t.crop_size, t.crop_size), (count, *labels)][: len(self.param.top)]
            return
        if self.kind == "ImageData":
            self.source = ImageList(p, c)
        elif p.backend != 1:
            raise self.error("has backend LEVELDB, which is not supported; write `backend: LMDB` and convert the data")
        else:
            force = "color" if p.force_encoded_color or t.force_color else "gray" if t.force_gray else ""
            self.source = LmdbSource(c.folder / p.source, p.batch_size, p.label_num, c.rank, c.world, force)
        pixels, label = self.source.record(0)
        self.shape, self.crop, self.mirror, self.scale = pixels.shape, t.crop_size, t.mirror, t.scale
        channels, height, width = self.shape
        if p.batch_size < 1 or self.crop > min(height, width):
            found = f"batch_size {p.batch_size}, crop_size {self.crop}"
            raise self.error(f"has {found}, its images are {width}x{height}")
        size = (self.crop, self.crop) if self.crop else (height, width)
        self.register_buffer("mean", self._mean(t), persistent=False)
        tops = [(p.batch_size, channels, *size), (p.batch_size, *np.shape(label))]
        self.top_shapes = tops[: len(self.param.top)]
        c.random.words(1)  # the reading thread seeds a generator of its own
        if p.rand_skip:
            self.source.position = int(c.random.words(1)[0]) % p.rand_skip % len(self.source)

    def _mean(self, t) -> Tensor | None:
        if t.HasField("mean_file"):
            path = self.context.folder / t.mean_file
            mean = read_blob(path)
            mean = mean.reshape(mean.shape[-3:])
            if mean.shape != self.shape or t.mean_value:
                more = ", and mean_value too" if t.mean_value else ""
                raise self.error(f"has mean_file {path} of shape {mean.shape}{more}, its images have {self.shape}")
            return torch.from_numpy(mean)
        if len(t.mean_value) not in (0, 1, self.shape[0]):
            raise self.error(f"has {len(t.mean_value)} values of mean_value for {self.shape[0]} channels")
        return torch.tensor(list(t.mean_value), dtype=torch.float32).reshape(-1, 1, 1) if t.mean_value else None

    def forward(self, pixels: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        if self.source is None:
            return (pixels,) if label is None else (pixels, label)
        x = pixels.float() if self.mean is None else pixels.float() - self.mean
        if self.crop:
            x = self._cropped(x)
        if self.mirror:
            x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(-1), x)
        x = x.mul_(self.scale) if self.scale != 1 else x
        return (x,) if label is None else (x, label)

    def _cropped(self, x: Tensor) -> Tensor:
        (height, width), size = x.shape[2:], self.crop
        if not self.training:
            top, left = (height - size) // 2, (width - size) // 2
            return x[..., top : top + size, left : left + size].clone()
        rows = torch.randint(0, height - size + 1, (len(x),)).tolist()
        columns = torch.randint(0, width - size + 1, (len(x),)).tolist()
        return torch.stack([image[:, r : r + size, c : c + size] for image, r, c in zip(x, rows, columns)])


@dataclass(frozen=True)
class Augment:
    """Random rotation and zoom of training batches, on the device. Labels of all stages are offsets from the centre of
    what the network sees, and turn with it.

    `rotate` degrees to either side, `zoom` a factor either way; `aspect`: width / height before pictures were resized.
    """

    rotate: float = 0.0
    zoom: float = 1.0
    aspect: float = 1.0

    def __bool__(self) -> bool:
        return self.rotate != 0 or self.zoom != 1

    def __call__(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B,C,H,W), labels (B,2J,1,1) x, y from the centre in pixels of the unresized picture -> both turned,
        float32. What turns in from outside repeats the border: black corners would tell the network the angle."""
        count = len(pixels)
        angle = (2 * torch.rand(count, device=pixels.device) - 1) * math.radians(self.rotate)
        factor = torch.exp((2 * torch.rand(count, device=pixels.device) - 1) * math.log(self.zoom))
        cos, sin = torch.cos(angle), torch.sin(angle)
        # from places in the new picture to those in the old one, in units of half its width and height
        zero = torch.zeros_like(cos)
        rows = [torch.stack([cos, sin / self.aspect, zero], 1), torch.stack([-sin * self.aspect, cos, zero], 1)]
        grid = F.affine_grid(torch.stack(rows, 1) / factor[:, None, None], list(pixels.shape), align_corners=False)
        turned = F.grid_sample(pixels.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
        x, y = labels.reshape(count, -1, 2).unbind(-1)
        cos, sin = (factor * cos)[:, None], (factor * sin)[:, None]
        return turned, torch.stack([cos * x - sin * y, sin * x + cos * y], -1).reshape(labels.shape)


def datum(image: np.ndarray, labels: np.ndarray) -> bytes:
    """(H,W,3) uint8 BGR and (L,) labels as a serialised Datum."""
    height, width, channels = image.shape
    record = messages()["Datum"](channels=channels, height=height, width=width, float_data=labels.tolist())
    record.encoded = False
    record.data = np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes()
    return record.SerializeToString()


def convert_imageset(names: list[str], labels: np.ndarray, target: Path, side: int, root: Path = Path("."), *,
                     allow_16bit: bool = False, workers: int = 2) -> int:  # fmt: skip
    """Images resized to side x side and their labels as LMDB, keys `%08d_PATH`; returns the number of records. An
    unreadable image is left out with a warning, and its number is not used again."""
    unread = Unread()

    def make(index: int) -> tuple[str, bytes] | None:
        with unread:
            image = read_picture(root / names[index], allow_16bit)
            return f"{index:08d}_{names[index]}", datum(resize(image, side), labels[index])
        return None

    def records() -> Iterator[tuple[str, bytes]]:
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            # in portions, so that a large data set is never in memory as a whole
            for start in tqdm(range(0, len(names), _PORTION), desc=target.name, unit="k images", dynamic_ncols=True):
                yield from filter(None, pool.map(make, range(start, min(start + _PORTION, len(names)))))

    shutil.rmtree(target, ignore_errors=True)
    count = write_lmdb(target, records())
    unread.report(len(names))
    return count


def compute_image_mean(lmdb_folder: Path, out: Path) -> np.ndarray:
    """Mean image (C,H,W) float32 of an LMDB, written as `.binaryproto`; a float32 running sum, as Caffe forms it."""
    source = LmdbSource(lmdb_folder, 1)
    total = np.zeros(source.record(0)[0].shape, np.float32)
    for _ in range(len(source)):
        total += source.next_batch()[0][0].numpy()
    total /= np.float32(len(source))
    write_blob(out, total)
    for channel, value in enumerate(total.mean((1, 2))):
        print(f"mean_value channel [{channel}]: {value:.5f}")
    return total
