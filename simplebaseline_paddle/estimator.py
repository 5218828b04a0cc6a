"""A trained network for images, files and whole data sets; on which device, in how many processes.

A network is exported once and run by paddle.inference, on CPUs with oneDNN, batch norms folded into convolutions: it
differs from the network as it is trained by about 1e-5 standard deviations of the maps, with `--amp bf16` by about
1e-2. Paddle is imported when a network or a process is made.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.codecs import decode_maps
from common.datasets import record
from common.errors import DataError
from common.geometry import checked_boxes
from common.images import picture_of
from common.poses import PoseSet
from common.predictions import People, Predictions, predictions_for
from common.runs import scoring, shelf
from common.runs.process import Process, device_numbers, environment_ranks
from common.skeletons import Skeleton, joint_order
from simplebaseline_paddle.config import HOUSE, PRESETS, SUFFIXES, Config
from simplebaseline_paddle.data import PersonDataset, crop, flip_back, load_batches, plain_batches, to_image
from simplebaseline_paddle.records import Person, Records, center_and_scale, records_for

CPUINFO = Path("/proc/cpuinfo")
Forward = Callable[[np.ndarray], np.ndarray]  # network input -> (N,K,h,w) float32


class PaddleProcess(Process):
    """Device, rank and collectives of this process; `python -m paddle.distributed.launch` starts several.

    `threads` 0: those of OMP_NUM_THREADS. DataError without the GPU asked for, or with a Paddle that cannot use it.
    """

    def __init__(self, device: str | None = None, threads: int | None = 0):
        before_paddle(threads)
        import paddle

        numbers = device_numbers(device, paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0)
        self.threads = threads or 0
        self.rank, self.world, _ = environment_ranks()
        if numbers and paddle.version.cuda().startswith("11") and paddle.device.cuda.get_device_capability()[0] >= 9:
            what = f"paddlepaddle-gpu {paddle.__version__} (CUDA {paddle.version.cuda()}) has no code for this GPU"
            raise DataError(f"{what}; install Paddle 3 for CUDA 12 from Paddle's own index, see requirements-gpu.txt")
        if self.world > 1:
            paddle.distributed.init_parallel_env()
        elif numbers and len(numbers) > 1:
            start = f"python -m paddle.distributed.launch --devices {','.join(map(str, numbers))} ..."
            raise DataError(f"--device {device}: Paddle takes one process a GPU; start them with {start}")
        else:
            paddle.set_device(f"gpu:{numbers[0]}" if numbers else "cpu")
        kind, _, number = paddle.get_device().partition(":")
        self.gpu = int(number) if kind == "gpu" else None

    def mean(self, value: float) -> float:
        return sum(self.gather(value)) / self.world

    def gather(self, value) -> list:
        """Every process's value, in the order of ranks."""
        if self.world == 1:
            return [value]
        import paddle

        found: list = []
        paddle.distributed.all_gather_object(found, value)
        return found


def processor() -> set[str]:
    """The words of the system's file about the processor: its vendor, what it can do."""
    return set(CPUINFO.read_text(errors="replace").split()) if CPUINFO.is_file() else set()


def before_paddle(threads: int | None = 0) -> None:
    """Set what Paddle reads from the environment when it is imported: CPU threads, and AVX2 on AMD processors.

    The wheels carry the MKL of 2019, which stays on SSE there: a training step takes several times the CPU time. A
    user's own value stays.
    """
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    if {"AuthenticAMD", "avx2", "fma"} <= processor():
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
    os.environ.setdefault("GLOG_minloglevel", "2")
    warnings.filterwarnings("ignore", "No ccache found")
    warnings.filterwarnings("ignore", "When training, we now always track")


def check_bfloat16(gpu: int | None) -> None:
    """DataError where the processor, or GPU number `gpu`, would imitate it, slower than float32."""
    import paddle

    native = processor() & {"avx512_bf16", "amx_bf16"}
    if not native if gpu is None else paddle.device.cuda.get_device_capability(gpu)[0] < 8:
        raise DataError("--amp bf16 needs a CPU with avx512_bf16 or amx_bf16, or a GPU since Ampere; leave it out")


# ---- networks as functions -------------------------------------------------------------------------------------------


def export_inference(network, prefix: Path, shape: tuple[int, int, int], kind: str = "float32") -> Path:
    """Paddle's inference format for any batch of inputs of `shape`; returns PREFIX.json (.pdmodel before Paddle 3)."""
    import paddle
    from paddle.static import InputSpec

    network.eval()
    paddle.jit.save(network, str(prefix), input_spec=[InputSpec([None, *shape], kind, "image")])
    return next(f for f in (prefix.with_name(prefix.name + s) for s in (".json", ".pdmodel")) if f.is_file())


def predictor(program: Path, amp: str = "off", gpu: int | None = None, threads: int = 0) -> Forward:
    """A network that `export_inference` wrote, as a function of its input."""
    from paddle import inference

    config = inference.Config(str(program), str(program.with_suffix(".pdiparams")))
    config.disable_glog_info()
    if gpu is not None:
        config.enable_use_gpu(512, gpu, getattr(inference.PrecisionType, "Bfloat16" if amp == "bf16" else "Float32"))
    else:
        config.enable_mkldnn()
        if amp == "bf16":
            config.enable_mkldnn_bfloat16()
        given = os.environ.get("OMP_NUM_THREADS", "0").partition(",")[0]
        config.set_cpu_math_library_num_threads(threads or int(given) or os.cpu_count() or 1)
    made = inference.create_predictor(config)
    source = made.get_input_handle(made.get_input_names()[0])
    result = made.get_output_handle(made.get_output_names()[0])

    def forward(inputs: np.ndarray) -> np.ndarray:
        source.copy_from_cpu(np.ascontiguousarray(inputs))
        made.run()
        return result.copy_to_cpu().astype(np.float32, copy=False)

    return forward


# ---- the estimator ---------------------------------------------------------------------------------------------------


class Estimator:
    """A network with its skeleton and settings.

    `weights`: file, folder, or shipped name; None: the newest best of this house (`dataset` limits whose). `given`:
    settings of `Config` that win over the checkpoint's; `preset` and `dataset` (whose joints) are for files of the
    originals, which hold neither. DataError when weights are missing, damaged, or contradict `given`.
    """

    path: Path | None = None  # where the weights came from
    shared_joints = False

    def __init__(
        self, weights: str | Path | None = None, *, preset: str = "auto", dataset: str | None = None,
        raw_weights: bool = False, shared_joints: bool = False, device: str | None = None, threads: int | None = 0,
        **given,
    ):  # fmt: skip
        from simplebaseline_paddle.weight_files import load_network

        path = shelf.find_weights(HOUSE, weights, SUFFIXES, f"{dataset}-*" if dataset else "*")
        if path is None:
            raise shelf.missing_weights(HOUSE, SUFFIXES)
        self.path, self.shared_joints = path, shared_joints
        self.process, given = PaddleProcess(device, threads), {"batch_size": 32, **given}
        found = load_network(path, given, PRESETS.get(preset, {}), dataset, raw_weights)
        self.model, self.config, self.skeleton = found

    @classmethod
    def of(cls, model, config: Config, skeleton: Skeleton, process: PaddleProcess) -> Estimator:
        """An estimator around a network that is there already."""
        self = cls.__new__(cls)
        self.model, self.config, self.skeleton, self.process = model, config, skeleton, process
        return self

    @cached_property
    def forward(self) -> Forward:
        """The network as a function of pictures (N,H,W,3) uint8 BGR. DataError: bfloat16 where there is none."""
        from simplebaseline_paddle.model import FromPictures

        config, gpu = self.config, self.process.gpu
        if config.amp == "bf16":
            check_bfloat16(gpu)
        width, height = config.input_size
        with tempfile.TemporaryDirectory() as folder:
            network = FromPictures(self.model, config.colour)
            program = export_inference(network, Path(folder) / "network", (height, width, 3), "uint8")
            return predictor(program, config.amp, gpu, self.process.threads)

    @property
    def meta(self) -> dict:
        """What a prediction file says of the network; tables tell P's networks, which come in folders, from T's."""
        config = self.config
        name = ("paddle_" if self.path and self.path.is_dir() else "") + config.name
        how = {"flip_test": config.flip_test, "mode": config.mode, "seed": config.seed}
        return scoring.describe(HOUSE, name, self.path, asdict(config), **how)

    def maps(self, images: np.ndarray) -> np.ndarray:
        """Heat-maps (N,K,h,w) float32 of (N,H,W,3) uint8 BGR crops, averaged with the mirrored ones if `flip_test`."""
        maps = self.forward(images)
        if self.config.flip_test:
            mirrored = self.forward(images[:, :, ::-1])
            maps = (maps + flip_back(mirrored, self.skeleton.mirror, self.config.shift_heatmap)) * 0.5
        if not np.isfinite(maps).all():
            raise DataError(f"the heat-maps of {self.path or 'this network'} are not finite; its weights are no good")
        return maps

    def joints(self, maps: np.ndarray, center: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(joints (N,K,2) in image pixels, scores (N,K): the peaks) of maps of crops at `center`, `scale` (N,2)."""
        cells, score = decode_maps(maps, 0.25 if self.config.post_process else 0.0)
        return to_image(cells, center, scale, self.config.map_size), score

    def predict(self, image: np.ndarray | str | Path, boxes=None) -> People:
        """The persons in `boxes` (n,4) x, y, w, h (None: the whole picture) of a file or an (H,W,3) uint8 BGR image."""
        return self.predict_many([(image, boxes)])[0]

    def predict_many(self, views: Sequence[tuple]) -> list[People]:
        """As `predict` for each pair of a picture and its boxes, all persons together."""
        images, given, config, count = [], [], self.config, len(self.skeleton)
        for image, boxes in views:
            image = picture_of(image)
            given.append((image, checked_boxes(boxes, image)))
            images += [image] * len(given[-1][1])
        boxes = np.concatenate([places for _, places in given])
        joints, score = np.zeros((len(boxes), count, 2)), np.zeros((len(boxes), count))
        center, scale = center_and_scale(boxes, config, "own")
        nobody = np.zeros((count, 2)), np.zeros(count, bool)
        for rows in plain_batches(len(boxes), config.batch_size):
            people = [(images[row], Person(center[row], scale[row], *nobody)) for row in rows]
            crops = np.stack([crop(*one, config.input_size, self.skeleton)[0] for one in people])
            joints[rows], score[rows] = self.joints(self.maps(crops), center[rows], scale[rows])
        return People.by_picture(joints, score, given)

    def predict_pose_set(self, pose_set: PoseSet) -> Predictions:
        """Predictions for whom `config.boxes` asks for, in the split's skeleton; NaN for others where rows count.

        In a distributed run every process predicts its share, and all get all. DataError when the network answers other
        joints (`shared_joints` lets those pass that both have), or no picture can be read.
        """
        order = joint_order(self.skeleton, pose_set.skeleton, self.shared_joints)
        records = records_for(pose_set, self.config)
        joints, score = self.predict_records(records)
        joints, score = joints[:, order], score[:, order]
        joints[:, order < 0], score[:, order < 0] = np.nan, 0.0
        meta = {**self.meta, "boxes": records.note}
        if record(pose_set.name).by_image:
            # detections have numbers below 0
            number = np.where(records.rows >= 0, pose_set.person_id[records.rows], -1 - np.arange(len(records)))
            where = {"image_id": records.image_id, "person_id": number, "box_score": records.box_score}
            return predictions_for(
                pose_set, joints, score, meta, box=records.box, area=np.prod(records.box[:, 2:], axis=1), **where
            )
        everybody = np.full((len(pose_set), len(order), 2), np.nan), np.zeros((len(pose_set), len(order)))
        box = np.array(pose_set.box, np.float64)
        everybody[0][records.rows], everybody[1][records.rows], box[records.rows] = joints, score, records.box
        return predictions_for(pose_set, *everybody, meta, box=box)

    def predict_records(self, records: Records) -> tuple[np.ndarray, np.ndarray]:
        """(joints (M,K,2) image pixels, scores (M,K)) in the network's skeleton; NaN and 0 of unreadable pictures."""
        config, process = self.config, self.process
        dataset = PersonDataset(records, self.skeleton, config, training=False)
        order = plain_batches(len(records), config.batch_size, process.rank, process.world)
        quiet = not process.is_main or not sys.stderr.isatty()
        parts: list[tuple] = []
        batches = load_batches(dataset, order, config.workers or 0)
        for batch in tqdm(batches, "predict", len(order), disable=quiet, dynamic_ncols=True):
            index, maps = batch["index"].numpy(), self.maps(batch["image"].numpy())
            found = self.joints(maps, records.center[index], records.scale[index])
            parts.append(tuple(array[batch["read"].numpy()] for array in (index, *found)))
        dataset.report()
        joints = np.full((len(records), len(self.skeleton), 2), np.nan)
        score = np.zeros(joints.shape[:2])
        for index, place, peak in (part for own in process.gather(parts) for part in own):
            joints[index], score[index] = place, peak
        return joints, score
