"""Data layers: an LMDB of Datums -> batches of raw pixels and labels -> the network's input, transformed on the device;
and making LMDBs.

Records come in key order, a batch goes on from record 0 at the end (Caffe does not shuffle). Reading runs ahead in a
thread; what crosses to the device is uint8, and mean and scale are applied there.
"""

from __future__ import annotations

import math
import queue
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import lmdb
import numpy as np
import torch
import torch.nn.functional as F
from google.protobuf.message import DecodeError
from torch import Tensor
from tqdm import tqdm

from common.errors import DataError
from common.images import write_lmdb
from common.weights.caffe import read_blob, write_blob
from common.weights.caffe_messages import messages
from deeppose_caffe_port.images import read_picture, resize
from deeppose_caffe_port.layers import Layer, Shape, layer

_PORTION = 1000  # records
_environments: dict[Path, tuple] = {}


def _environment(path: Path):
    """The environment of an LMDB folder, opened once a process, as LMDB demands; anew when the file was replaced."""
    stat = (path / "data.mdb").stat()
    stamp = (stat.st_ino, stat.st_mtime_ns)
    if path not in _environments or _environments[path][0] != stamp:
        # no lock file, so that read-only folders work
        _environments[path] = (stamp, lmdb.open(str(path), readonly=True, lock=False, readahead=False, max_readers=64))
    return _environments[path][1]


class LmdbSource:
    """Batches of one process out of an LMDB: (raw pixels (B,C,H,W) uint8 or float32, labels float32 (B,L,1,1), or (B,)
    without label_num).

    `force` (`color`, `gray`): how encoded pictures are decoded; without it as they are.
    """

    def __init__(self, path: str | Path, batch_size: int, label_num: int = 0, rank: int = 0, world: int = 1,
                 force: str = ""):  # fmt: skip
        self.path, self.batch_size, self.label_num = Path(path), batch_size, label_num
        self.rank, self.world, self.force = rank, world, force
        if not (self.path / "data.mdb").is_file():
            raise self.error("does not exist")
        try:
            self._transaction = _environment(self.path.resolve()).begin(buffers=True)
        except lmdb.Error as error:
            raise self.error(f"cannot be opened ({error})") from error
        self.keys = [bytes(key) for key in self._transaction.cursor().iternext(values=False)]
        if not self.keys:
            raise self.error("is empty")
        self.position = 0  # of the first record of the next batch of all processes together
        pixels, label = self.record(0)
        self.shape, self.kind, self.label_shape = pixels.shape, pixels.dtype, label.shape

    def __len__(self) -> int:
        return len(self.keys)

    def error(self, text: str, index: int | None = None) -> DataError:
        """The error for something wrong with the file, or with one record."""
        record = "" if index is None else f", record {self.keys[index % len(self.keys)].decode(errors='replace')}:"
        remedy = "make it with `workflow.py create_lmdb`, or Caffe's convert_imageset"
        return DataError(f"LMDB {self.path}{record} {text}; {remedy}")

    def record(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (C,H,W) and label of one record; DataError naming file and key for a damaged one or too few labels."""
        datum = messages()["Datum"]()
        try:
            datum.ParseFromString(bytes(self._transaction.get(self.keys[index % len(self.keys)])))
        except DecodeError as error:
            raise self.error(f"not a Datum ({error})", index) from error
        if not self.label_num:
            return self._pixels(datum, index), np.float32(datum.label)
        if len(datum.float_data) < self.label_num:
            found = len(datum.float_data)
            raise self.error(f"field float_data has {found} labels, label_num is {self.label_num}", index)
        label = np.array(datum.float_data[: self.label_num], np.float32)
        return self._pixels(datum, index), label.reshape(-1, 1, 1)

    def _pixels(self, datum, index: int) -> np.ndarray:
        if datum.encoded:
            flag = {"color": cv2.IMREAD_COLOR, "gray": cv2.IMREAD_GRAYSCALE}.get(self.force, cv2.IMREAD_UNCHANGED)
            image = cv2.imdecode(np.frombuffer(datum.data, np.uint8), flag)
            if image is None:
                raise self.error("its encoded image cannot be decoded", index)
            return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        shape = (datum.channels, datum.height, datum.width)
        stored = datum.data or self.label_num
        values = np.frombuffer(datum.data, np.uint8) if stored else np.array(datum.float_data, np.float32)
        if values.size != np.prod(shape):
            raise self.error(f"{values.size} values for shape {shape}", index)
        return values.reshape(shape)

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """The next batch of this process."""
        data = np.empty((self.batch_size, *self.shape), self.kind)
        labels = np.empty((self.batch_size, *self.label_shape), np.float32)
        start = self.position + self.rank * self.batch_size
        for i in range(self.batch_size):
            pixels, labels[i] = self.record(start + i)
            if pixels.shape != self.shape:
                raise self.error(f"shape {pixels.shape}, the first has {self.shape}; resize them alike", start + i)
            data[i] = pixels
        self.position = (self.position + self.batch_size * self.world) % len(self.keys)
        return torch.from_numpy(data), torch.from_numpy(labels)


class Prefetch:
    """Batches of several sources, read ahead in a thread; `positions` are those of what `next` gave."""

    def __init__(self, sources: dict[tuple[str, ...], LmdbSource], device: torch.device, ahead: int = 4):
        self.sources, self.device = sources, device
        self.positions = {tops[0]: source.position for tops, source in sources.items()}
        self._queue: queue.Queue = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            for item in self._batches():
                if not self._put(item):
                    return
        except BaseException as error:  # the training thread raises it
            self._put(error)

    def _put(self, item) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _batches(self) -> Iterator[tuple[dict, dict]]:
        pin = self.device.type == "cuda"
        while True:
            feeds, positions = {}, {}
            for tops, source in self.sources.items():
                for top, tensor in zip(tops, source.next_batch()):
                    feeds[top] = tensor.pin_memory() if pin else tensor
                positions[tops[0]] = source.position
            yield feeds, positions

    def next(self) -> dict[str, Tensor]:
        """The next batch; raises what went wrong while reading it."""
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        feeds, self.positions = item
        return {top: tensor.to(self.device, non_blocking=True) for top, tensor in feeds.items()}

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()


@layer("Data")
class Data(Layer):
    """Caffe's LMDB reader. `forward` applies transform_param to what its source read: mean, scale, crop, mirror."""

    bottoms = (0, 0)

    def setup(self, shapes: list[Shape]) -> None:
        p, t, c = self.param.data_param, self.param.transform_param, self.context
        if p.backend != 1:
            raise self.error("has backend LEVELDB, which is not supported; write `backend: LMDB` and convert the data")
        if t.force_color and t.force_gray:
            raise self.error("has force_color and force_gray; give one of the two")
        force = "color" if p.force_encoded_color or t.force_color else "gray" if t.force_gray else ""
        self.source = LmdbSource(c.folder / p.source, p.batch_size, p.label_num, c.rank, c.world, force)
        self.crop, self.mirror, self.scale = t.crop_size, t.mirror, t.scale
        channels, height, width = self.source.shape
        if self.crop > min(height, width):
            raise self.error(f"has crop_size {self.crop}, its images are {width}x{height}")
        size = (self.crop, self.crop) if self.crop else (height, width)
        self.register_buffer("mean", self._mean(t), persistent=False)
        tops = [(p.batch_size, channels, *size), (p.batch_size, *self.source.label_shape)]
        self.top_shapes = tops[: len(self.param.top)]
        c.random.words(1)  # the reading thread seeds a generator of its own
        if p.rand_skip:
            self.source.position = int(c.random.words(1)[0]) % p.rand_skip % len(self.source)

    def _mean(self, t) -> Tensor | None:
        if t.HasField("mean_file"):
            path = self.context.folder / t.mean_file
            mean = read_blob(path)
            mean = mean.reshape(mean.shape[-3:])
            if mean.shape != self.source.shape:
                raise self.error(f"has mean_file {path} of shape {mean.shape}, its images have {self.source.shape}")
            return torch.from_numpy(mean)
        if len(t.mean_value) not in (0, 1, self.source.shape[0]):
            raise self.error(f"has {len(t.mean_value)} values of mean_value for {self.source.shape[0]} channels")
        return torch.tensor(list(t.mean_value), dtype=torch.float32).reshape(-1, 1, 1) if t.mean_value else None

    def forward(self, pixels: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        x = pixels.float() if self.mean is None else pixels.float() - self.mean
        if self.crop:
            x = self._cropped(x)
        if self.mirror and self.training:
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
    """Random rotation and zoom of training batches, on the device (the original trains on the pictures as they are, and
    mirrored).

    Labels of all stages are offsets from the centre of what the network sees, so turning the picture about it turns the
    labels with it. `rotate` degrees to either side, `zoom` as a factor either way; `aspect` is width / height of the
    pictures before they were resized.
    """

    rotate: float = 0.0
    zoom: float = 1.0
    aspect: float = 1.0

    def __bool__(self) -> bool:
        return self.rotate != 0 or self.zoom != 1

    def __call__(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B,C,H,W), labels (B,2J,1,1) as x, y from the centre in pixels of the unresized picture -> both
        turned, float32.

        Every record draws its own angle and factor from PyTorch's generator. The centre is taken as that of the labels,
        half a pixel from the image's; what turns in from outside repeats the border, because black corners would tell
        the network the angle.
        """
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


# ---- making LMDBs --------------------------------------------------------------------------------


def datum(image: np.ndarray, labels: np.ndarray) -> bytes:
    """(H,W,3) uint8 BGR and (L,) labels as a serialised Datum."""
    height, width, channels = image.shape
    record = messages()["Datum"](channels=channels, height=height, width=width, float_data=labels.tolist())
    record.encoded = False
    record.data = np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes()
    return record.SerializeToString()


def convert_imageset(names: list[str], labels: np.ndarray, target: Path, side: int, root: Path = Path("."), *,
                     skip_unreadable: bool = False, allow_16bit: bool = False, workers: int = 2) -> int:  # fmt: skip
    """Images resized to side x side and their labels as LMDB, keys `%08d_PATH`; returns the number of records.

    An unreadable image is an error; with `skip_unreadable` it is named, and its number is not used again.
    """

    def make(index: int) -> tuple[str, bytes] | None:
        try:
            image = read_picture(root / names[index], allow_16bit)
        except DataError as error:
            if not skip_unreadable:
                raise
            print(f"skipped: {error}")
            return None
        return f"{index:08d}_{names[index]}", datum(resize(image, side), labels[index])

    def records() -> Iterator[tuple[str, bytes]]:
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            # in portions, so that a large data set is never in memory as a whole
            for start in tqdm(range(0, len(names), _PORTION), desc=target.name, unit="k images", dynamic_ncols=True):
                yield from filter(None, pool.map(make, range(start, min(start + _PORTION, len(names)))))

    shutil.rmtree(target, ignore_errors=True)
    return write_lmdb(target, records())


def compute_image_mean(lmdb_folder: Path, out: Path) -> np.ndarray:
    """Mean image (C,H,W) float32 of an LMDB, written as `.binaryproto`; a float32 running sum, as Caffe forms it."""
    source = LmdbSource(lmdb_folder, 1)
    total = np.zeros(source.shape, np.float32)
    for _ in range(len(source)):
        total += source.next_batch()[0][0].numpy()
    total /= np.float32(len(source))
    write_blob(out, total)
    for channel, value in enumerate(total.mean((1, 2))):
        print(f"mean_value channel [{channel}]: {value:.5f}")
    return total
