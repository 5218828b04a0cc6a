"""Data layers: an LMDB of Datums -> batches of raw pixels and labels -> the network's input, transformed on the device.

Records come in key order, a batch goes on from record 0 at the end (Caffe does not shuffle). Reading runs ahead in a thread; what crosses to
the device is uint8, and mean and scale are applied there.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import DataError
from common.weights.caffe import read_blob
from common.weights.caffe_messages import messages
from deeppose_caffe_port.layers import Layer, Shape, layer

_REMEDY = "make it with `workflow.py create_lmdb`, or with Caffe's convert_imageset"


_environments: dict[Path, tuple] = {}


def _environment(path: Path):
    """The environment of an LMDB folder, opened once a process; anew when the file was replaced meanwhile."""
    stat = (path / "data.mdb").stat()
    stamp = (stat.st_ino, stat.st_mtime_ns)
    if path not in _environments or _environments[path][0] != stamp:
        _environments[path] = (stamp, _open(path))
    return _environments[path][1]


def _open(path: Path):
    import lmdb

    # one environment a file and process is all that LMDB allows; no lock file, so that read-only folders work
    try:
        return lmdb.open(str(path), readonly=True, lock=False, readahead=False, max_readers=64)
    except lmdb.Error as error:
        raise DataError(f"LMDB {path} cannot be opened ({error}); {_REMEDY}") from error


class LmdbSource:
    """Batches of one process out of an LMDB: (raw pixels (B,C,H,W) uint8 or float32, labels float32 (B,L,1,1), or (B,) without label_num)."""

    def __init__(self, path: str | Path, batch_size: int, label_num: int = 0, rank: int = 0, world: int = 1):
        self.path, self.batch_size, self.label_num, self.rank, self.world = (
            Path(path),
            batch_size,
            label_num,
            rank,
            world,
        )
        if not (self.path / "data.mdb").is_file():
            raise DataError(f"LMDB {self.path} does not exist; {_REMEDY}")
        self._transaction = _environment(self.path.resolve()).begin(buffers=True)
        self.keys = [bytes(key) for key in self._transaction.cursor().iternext(values=False)]
        if not self.keys:
            raise DataError(f"LMDB {self.path} is empty; {_REMEDY}")
        self.position = 0  # of the first record of the next batch of all processes together
        pixels, label = self.record(0)
        self.shape, self.kind, self.label_shape = pixels.shape, pixels.dtype, label.shape

    def __len__(self) -> int:
        return len(self.keys)

    def record(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (C,H,W) and label of one record; DataError naming file and key for a damaged record or too few labels."""
        from google.protobuf.message import DecodeError

        key = self.keys[index % len(self.keys)]
        datum = messages()["Datum"]()
        try:
            datum.ParseFromString(bytes(self._transaction.get(key)))
        except DecodeError as error:
            raise DataError(
                f"LMDB {self.path}, record {key.decode(errors='replace')}: not a Datum ({error}); {_REMEDY}"
            ) from error
        return self._pixels(datum, key), self._label(datum, key)

    def _pixels(self, datum, key: bytes) -> np.ndarray:
        name = key.decode(errors="replace")
        if datum.encoded:
            import cv2

            image = cv2.imdecode(np.frombuffer(datum.data, np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                raise DataError(f"LMDB {self.path}, record {name}: its encoded image cannot be decoded; {_REMEDY}")
            return image.transpose(2, 0, 1)
        shape = (datum.channels, datum.height, datum.width)
        values = (
            np.frombuffer(datum.data, np.uint8)
            if datum.data or self.label_num
            else np.array(datum.float_data, np.float32)
        )
        if values.size != np.prod(shape):
            raise DataError(f"LMDB {self.path}, record {name}: {values.size} values for shape {shape}; {_REMEDY}")
        return values.reshape(shape)

    def _label(self, datum, key: bytes) -> np.ndarray:
        if not self.label_num:
            return np.float32(datum.label)
        if len(datum.float_data) < self.label_num:
            raise DataError(
                f"LMDB {self.path}, record {key.decode(errors='replace')}: field float_data has {len(datum.float_data)} labels, label_num is"
                f" {self.label_num}; make the LMDB again, or set label_num in the prototxt"
            )
        return np.array(datum.float_data[: self.label_num], np.float32).reshape(-1, 1, 1)

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """The next batch of this process."""
        data = np.empty((self.batch_size, *self.shape), self.kind)
        labels = np.empty((self.batch_size, *self.label_shape), np.float32)
        start = self.position + self.rank * self.batch_size
        for i in range(self.batch_size):
            pixels, labels[i] = self.record(start + i)
            if pixels.shape != self.shape:
                key = self.keys[(start + i) % len(self.keys)].decode(errors="replace")
                raise DataError(
                    f"LMDB {self.path}, record {key}: shape {pixels.shape}, the first has {self.shape}; resize all images alike"
                )
            data[i] = pixels
        self.position = (self.position + self.batch_size * self.world) % len(self.keys)
        return torch.from_numpy(data), torch.from_numpy(labels)


class Prefetch:
    """Batches of several sources, read ahead in a thread: `next()` gives {top: tensor on the device}; `positions` are those consumed."""

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
    """Caffe's LMDB reader. `forward` takes what its source read and applies transform_param: (pixel - mean) scale, crop, mirror."""

    bottoms = (0, 0)

    def setup(self, shapes: list[Shape]) -> None:
        p, t = self.param.data_param, self.param.transform_param
        if p.backend != 1:
            raise self.error("has backend LEVELDB, which is not supported; write `backend: LMDB` and convert the data")
        self.source = LmdbSource(
            self.context.folder / p.source, p.batch_size, p.label_num, self.context.rank, self.context.world
        )
        self.crop, self.mirror, self.scale = t.crop_size, t.mirror, t.scale
        channels, height, width = self.source.shape
        if self.crop > min(height, width):
            raise self.error(f"has crop_size {self.crop}, its images are {width}x{height}")
        size = (self.crop, self.crop) if self.crop else (height, width)
        self.register_buffer("mean", self._mean(t), persistent=False)
        self.top_shapes = [(p.batch_size, channels, *size), (p.batch_size, *self.source.label_shape)][
            : len(self.param.top)
        ]
        self.context.random.words(1)  # the reading thread seeds a generator of its own

    def _mean(self, t) -> Tensor | None:
        channels = self.source.shape[0]
        if t.HasField("mean_file"):
            path = self.context.folder / t.mean_file
            mean = read_blob(path)
            mean = mean.reshape(mean.shape[-3:])
            if mean.shape != self.source.shape:
                raise self.error(
                    f"has mean_file {path} of shape {mean.shape}, the images of its LMDB have {self.source.shape}"
                )
            return torch.from_numpy(mean)
        if len(t.mean_value) not in (0, 1, channels):
            raise self.error(f"has {len(t.mean_value)} values of mean_value for {channels} channels")
        return torch.tensor(list(t.mean_value), dtype=torch.float32).reshape(-1, 1, 1) if t.mean_value else None

    def forward(self, pixels: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        x = pixels.float()
        if self.mean is not None:
            x = x - self.mean
        if self.crop:
            x = self._cropped(x)
        if self.mirror and self.training:
            chosen = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
            x = torch.where(chosen, x.flip(-1), x)
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
