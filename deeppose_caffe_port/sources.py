"""What Caffe's data layers read: an LMDB of Datums, a list of images, HDF5 files; in batches, ahead in a thread.

Records come in their order, a batch goes on from record 0 at the end (Caffe's LMDB reader does not shuffle).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from common.errors import DataError
from common.images import needed_lmdb, read_image
from common.weights.caffe_messages import messages
from deeppose_caffe_port.layers import Context

_environments: dict[Path, tuple] = {}


class Source:
    """Batches of one process out of `count` records; `record(index)` gives the arrays of one, one a top. With `shuffle`
    (a seed) every round has another order."""

    record: Callable[[int], tuple[np.ndarray, ...]]
    error: Callable[..., DataError]  # (text, index of a record)

    def __init__(self, batch_size: int, rank: int = 0, world: int = 1, shuffle: int | None = None):
        self.batch_size, self.rank, self.world, self.shuffle = batch_size, rank, world, shuffle
        self.count, self.position = 0, 0  # of the first record of the next batch of all processes together
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.count

    def next_batch(self) -> tuple[Tensor, ...]:
        """The next batch of this process."""
        start, rows = self.position + self.rank * self.batch_size, []
        for i in range(start, start + self.batch_size):
            index = self._place(i)
            rows.append(self.record(index))
            if rows[-1][0].shape != rows[0][0].shape:
                shapes = f"shape {rows[-1][0].shape}, the first has {rows[0][0].shape}"
                raise self.error(f"{shapes}; resize them alike", index)
        self.position += self.batch_size * self.world
        return tuple(torch.from_numpy(np.stack(column)) for column in zip(*rows))

    def _place(self, i: int) -> int:
        if self.shuffle is None:
            return i % self.count
        if self._order is None or self._order[0] != i // self.count:
            seed = (self.shuffle, i // self.count)
            self._order = seed[1], np.random.default_rng(seed).permutation(self.count)
        return int(self._order[1][i % self.count])


class LmdbSource(Source):
    """An LMDB of Datums: raw pixels (B,C,H,W) uint8 or float32, labels float32 (B,L,1,1), or (B,) without label_num;
    encoded pictures are decoded as they are, or as `force` (`color`, `gray`) says."""

    def __init__(self, path: str | Path, batch_size: int, label_num: int = 0, rank: int = 0, world: int = 1,
                 force: str = ""):  # fmt: skip
        super().__init__(batch_size, rank, world)
        self.path, self.label_num, self.force = Path(path), label_num, force
        if not (self.path / "data.mdb").is_file():
            raise self.error("does not exist")
        lmdb = needed_lmdb(f"reading {self.path}")
        place, stat = self.path.resolve(), (self.path / "data.mdb").stat()
        stamp = (stat.st_ino, stat.st_mtime_ns)
        try:
            # opened once a process, as LMDB demands; anew when the file was replaced
            if _environments.get(place, (None,))[0] != stamp:
                # no lock file, so that read-only folders work
                found = lmdb.open(str(place), readonly=True, lock=False, readahead=False, max_readers=64)
                if (found.info()["last_pgno"] + 1) * found.stat()["psize"] > stat.st_size:  # a read would be fatal
                    raise lmdb.Error("the file is cut off")
                _environments[place] = (stamp, found)
            self._transaction = _environments[place][1].begin(buffers=True)
            self.keys = [bytes(key) for key in self._transaction.cursor().iternext(values=False)]
        except lmdb.Error as error:
            raise self.error(f"cannot be opened ({error})") from error
        self.count = len(self.keys)
        if not self.keys:
            raise self.error("is empty")

    def error(self, text: str, index: int | None = None) -> DataError:
        """The error for something wrong with the file, or with one record."""
        record = "" if index is None else f", record {self.keys[index].decode(errors='replace')}:"
        remedy = "make it with `workflow.py create_lmdb`, or Caffe's convert_imageset"
        return DataError(f"LMDB {self.path}{record} {text}; {remedy}")

    def record(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (C,H,W) and label; DataError naming file and key for a damaged record or too few labels."""
        datum = messages()["Datum"]()
        try:
            datum.ParseFromString(bytes(self._transaction.get(self.keys[index])))
        except (DecodeError, TypeError, needed_lmdb(self.path).Error) as error:
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
            image = cv2.imdecode(np.frombuffer(datum.data, np.uint8), flag) if datum.data else None
            if image is None:
                raise self.error("its encoded image cannot be decoded", index)
            return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        shape = (datum.channels, datum.height, datum.width)
        stored = datum.data or self.label_num
        values = np.frombuffer(datum.data, np.uint8) if stored else np.array(datum.float_data, np.float32)
        if min(shape) < 1 or values.size != math.prod(shape):
            raise self.error(f"{values.size} values for shape {shape}", index)
        return values.reshape(shape)


class ImageList(Source):
    """A list of `PATH LABEL` lines, as ImageData reads it: pixels (B,C,H,W) uint8, labels (B,) float32."""

    def __init__(self, param, context: Context):
        shuffle = int(context.random.words(1)[0]) if param.shuffle else None
        super().__init__(param.batch_size, context.rank, context.world, shuffle)
        self.path, self.param, self.folder = context.folder / param.source, param, context.folder
        if not self.path.is_file():
            raise DataError(f"image list {self.path} does not exist")
        lines = [line.rsplit(None, 1) for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines()]
        self.lines = [line for line in lines if line]
        self.count = len(self.lines)
        if not self.lines or bool(param.new_height) != bool(param.new_width):
            raise DataError(f"image list {self.path} is empty, or one of new_height and new_width is missing")

    def error(self, text: str, index: int | None = None) -> DataError:
        """The error for a line of the list."""
        return DataError(f"image list {self.path} line {(index or 0) + 1}: {text}")

    def record(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (C,H,W) and label; DataError naming list, line and picture."""
        p, (*name, label) = self.param, self.lines[index]
        try:
            value = np.float32(label)
        except ValueError:
            raise self.error(f"expected `PATH LABEL`, found {' '.join(self.lines[index])!r}", index) from None
        image = read_image(self.folder / (p.root_folder + "".join(name)))
        if p.new_height:
            image = cv2.resize(image, (p.new_width, p.new_height))
        return (image if p.is_color else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]).transpose(2, 0, 1), value


class Hdf5Source(Source):
    """Files of datasets with the names of the tops, as HDF5Data reads them; float32, one after the other."""

    def __init__(self, param, tops: list[str], context: Context):
        import h5py

        shuffle = int(context.random.words(1)[0]) if param.shuffle else None
        super().__init__(param.batch_size, context.rank, context.world, shuffle)
        self.path = context.folder / param.source
        parts: list[list[np.ndarray]] = []
        try:
            for name in self.path.read_text(encoding="utf-8").split():
                with h5py.File(context.folder / name) as file:
                    parts.append([np.asarray(file[top], np.float32) for top in tops])
            self.arrays = [np.concatenate(column) for column in zip(*parts, strict=True)]
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise self.error(f"its files cannot be read as {', '.join(tops)} ({error})") from error
        self.count = min(map(len, self.arrays), default=0)
        if not self.count or self.count != max(map(len, self.arrays)):
            raise self.error("its datasets are empty, or of different lengths")

    def error(self, text: str, index: int | None = None) -> DataError:
        """The error for the list of files."""
        return DataError(f"HDF5 list {self.path}: {text}")

    def record(self, index: int) -> tuple[np.ndarray, ...]:
        """One row of every dataset."""
        return tuple(array[index] for array in self.arrays)


class Prefetch:
    """Batches of several sources, read ahead in a thread; `positions` are those of what `next` gave."""

    def __init__(self, sources: dict[tuple[str, ...], Source], device: torch.device, ahead: int = 4):
        self.sources, self.device = sources, device
        self.positions = {tops[0]: source.position for tops, source in sources.items()}
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future] = deque(self._thread.submit(self._read) for _ in range(ahead))

    def _read(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        feeds, positions = {}, {}
        for tops, source in self.sources.items():
            for top, tensor in zip(tops, source.next_batch()):
                feeds[top] = tensor.pin_memory() if self.device.type == "cuda" else tensor
            positions[tops[0]] = source.position
        return feeds, positions

    def next(self) -> dict[str, Tensor]:
        """The next batch; raises what went wrong while reading it."""
        self._waiting.append(self._thread.submit(self._read))
        feeds, self.positions = self._waiting.popleft().result()
        return {top: tensor.to(self.device, non_blocking=True) for top, tensor in feeds.items()}

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)
