"""Records -> crops, augmentation, targets -> Paddle batches.

Images travel as uint8 and are normalised where the network runs. Every draw comes from a generator keyed by (seed, epoch, person): batches
depend neither on the number of workers nor on a resume.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import paddle
from paddle import io

from common.errors import DataError
from common.images import read_image
from common.skeletons import Skeleton
from simplebaseline_paddle import transforms
from simplebaseline_paddle.config import STRIDE, Config, augmentation_of
from simplebaseline_paddle.records import Records
from simplebaseline_paddle.transforms import Augmentation, Person

_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def read_reduced(path: str, factor: int) -> tuple[np.ndarray, int]:
    """(image, factor): a JPEG decoded at 1/`factor` of its size, other images whole (factor 1). DataError as `read_image`."""
    if factor > 1 and path.lower().endswith((".jpg", ".jpeg")) and Path(path).is_file():
        image = cv2.imread(path, _REDUCED[factor] | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is not None:
            return image, factor
    return read_image(path), 1


class PersonDataset(io.Dataset):
    """Persons as network input, a batch at a time: the key is a list of (epoch, index).

    An item is a dict of arrays: image (N,H,W,3) uint8 BGR and index (N,), for training also target (N,K,h,w) and weight (N,K,1).
    """

    def __init__(self, records: Records, skeleton: Skeleton, config: Config, training: bool):
        super().__init__()
        self.records, self.skeleton, self.config, self.training = records, skeleton, config, training
        self.factors = augmentation_of(config)
        self.augmented = training and config.augmentation != "none"
        self.fast = training and config.fast_decode and config.mode == "correct"
        self._last: tuple = (None, None)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, keys: list[tuple[int, int]]) -> dict[str, np.ndarray]:
        width, height = self.config.input_size
        batch = {
            "image": np.empty((len(keys), height, width, 3), np.uint8),
            "index": np.array([index for _, index in keys], np.int64),
        }
        # Before any picture: decoding one pushes code and data out of the processor's caches, and all this then takes several times as long
        plans = [self._plan(epoch, index) for epoch, index in keys]
        found = [self._cut(*plan, out) for plan, out in zip(plans, batch["image"])]
        if self.training:
            width, height = self.config.map_size
            batch["target"] = np.zeros((len(keys), len(self.skeleton), height, width), np.float32)
            batch["weight"] = np.stack([self._targets(*one, out) for one, out in zip(found, batch["target"])])
        return batch

    def _plan(self, epoch: int, index: int) -> tuple:
        """(path, how much smaller to decode it, person, augmentation, `place`'s answer or None where it takes the image's width)."""
        records, size = self.records, self.config.input_size
        person = Person(records.center[index], records.scale[index], records.joints[index], records.seen[index])
        change = self._draw(epoch, index) if self.augmented else Augmentation()
        factor = transforms.reduction(person.scale * change.scale, size[0]) if self.fast else 1
        known = transforms.place(person, size, self.skeleton, change) if self.fast or not change.flip else None
        return records.images[index], factor, person, change, known

    def _cut(
        self, path: str, factor: int, person: Person, change: Augmentation, known: tuple | None, out: np.ndarray
    ) -> tuple:
        """Fill `out` with a planned crop; returns (joints in crop pixels, seen)."""
        image, factor = self._image(path, factor)
        if known is None:
            return transforms.crop(image, person, self.config.input_size, self.skeleton, change, factor, out)[1:]
        matrix, joints, seen = known
        (transforms.warp_mirrored if change.flip else transforms.warp)(
            image, matrix, self.config.input_size, factor, out
        )
        return joints, seen

    def _targets(self, joints: np.ndarray, seen: np.ndarray, out: np.ndarray) -> np.ndarray:
        config = self.config
        return transforms.targets(joints, seen, config.map_size, config.sigma, STRIDE, config.mode == "compat", out)[1]

    def _draw(self, epoch: int, index: int) -> Augmentation:
        rng = np.random.Generator(np.random.Philox(key=self.config.seed, counter=[0, 0, epoch, index]))
        return transforms.draw_augmentation(rng, *self.factors)

    def _image(self, path: str, factor: int) -> tuple[np.ndarray, int]:
        """The image. In scoring it is kept for the next person, as those of one image follow each other."""
        if self.training:
            return read_reduced(path, factor)
        if self._last[0] != (path, factor):
            self._last = ((path, factor), read_reduced(path, factor))
        return self._last[1]


class EpochBatches(io.BatchSampler):
    """Batches of (epoch, index) in an order fixed by (seed, epoch), shared among `world` processes, starting `skip` batches into the epoch.

    Training batches are shuffled, whole and of equal number in every process: process r takes every world-th person of each global batch.
    Otherwise every person comes exactly once in one of the processes.
    """

    def __init__(self, length: int, batch: int, seed: int, shuffle: bool, rank: int = 0, world: int = 1):
        self.length, self.batch, self.seed, self.shuffle, self.rank, self.world = (
            length,
            batch,
            seed,
            shuffle,
            rank,
            world,
        )
        self.epoch = self.skip = 0

    def __iter__(self):
        order = (
            np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
            if self.shuffle
            else np.arange(self.length)
        )
        if self.shuffle:
            batches = [order[b * self.batch : (b + 1) * self.batch][self.rank :: self.world] for b in range(self.total)]
        else:
            own = np.array_split(order, self.world)[self.rank]  # neighbours share images
            batches = [own[i : i + self.batch] for i in range(0, len(own), self.batch)]
        for indices in batches[self.skip :]:
            yield [(self.epoch, int(i)) for i in indices]

    @property
    def total(self) -> int:
        """Batches of a whole epoch."""
        if not self.shuffle:
            return -(-len(np.array_split(np.arange(self.length), self.world)[self.rank]) // self.batch)
        return max(self.length // self.batch, int(self.length > 0 and self.world == 1))

    def __len__(self) -> int:
        return max(self.total - self.skip, 0)


def _quiet_worker(_: int) -> None:
    cv2.setNumThreads(0)


class _Messages(io.Dataset):
    """A data set whose items may be the texts of errors: in worker processes, Paddle's loader answers an exception by hanging or dying."""

    def __init__(self, dataset: PersonDataset):
        super().__init__()
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, keys) -> dict:
        try:
            return self.dataset[keys]
        except DataError as error:
            return {"index": np.zeros(1, np.int64), "error": [str(error)]}


class _WholeBatches(io.BatchSampler):
    """Each batch of keys as the only key of a batch: Paddle's loader then asks for whole batches."""

    def __init__(self, sampler: EpochBatches):
        self.sampler = sampler

    def __iter__(self):
        return ([keys] for keys in self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


def _only(items: list) -> dict:
    return items[0]


class Loader:
    """Batches as dicts of tensors, from `workers` processes by shared memory, with 0 from this one. DataError when a picture cannot be read."""

    def __init__(self, dataset: PersonDataset, sampler: EpochBatches, workers: int):
        self.dataset, self.sampler, self.workers = _Messages(dataset), sampler, workers

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self):
        for batch in self._batches():
            if "error" in batch:
                raise DataError(batch["error"][0])
            yield batch

    def _batches(self):
        if self.workers:
            return iter(
                io.DataLoader(
                    self.dataset, batch_sampler=_WholeBatches(self.sampler), num_workers=self.workers, collate_fn=_only,
                    worker_init_fn=_quiet_worker, use_shared_memory=True, use_buffer_reader=False,
                )
            )  # fmt: skip
        return self._serial()

    def _serial(self):
        for keys in self.sampler:
            batch = self.dataset[keys]
            yield batch if "error" in batch else {name: paddle.to_tensor(array) for name, array in batch.items()}


def make_loader(
    dataset: PersonDataset, batch: int, shuffle: bool, rank: int = 0, world: int = 1, epoch: int = 0, skip: int = 0
) -> Loader:
    """Batches of `batch` persons (in training over all processes together), starting `skip` batches into the epoch."""
    sampler = EpochBatches(len(dataset), batch, dataset.config.seed, shuffle, rank, world)
    sampler.epoch, sampler.skip = epoch, skip
    return Loader(dataset, sampler, dataset.config.workers)
