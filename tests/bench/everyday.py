"""What a user waits for, house by house: the first picture, a folder of pictures, annotations of COCO's size.

    python tests/bench/everyday.py picture --json common/results/bench/picture.json
    python tests/bench/everyday.py folder --data_root LSPET --json common/results/bench/folder.json
    python tests/bench/everyday.py coco --json common/results/bench/coco_size.json
    python tests/bench/everyday.py loader --data_root LSPET --json common/results/bench/loaders.json
    python tests/bench/everyday.py loader --dataset coco --data_root COCO --json common/results/bench/loaders_coco.json
    python tests/bench/everyday.py memory --data_root LSPET --json common/results/bench/memory.json

picture: CPU time of `predict.py photo.jpg --weights lspet` from the shell, of what it needs at least (a process that
imports the framework and runs the network once, without what importing this house takes). folder: predict.py's loop
over picture files, without making the network, and `predict_pose_set` on the same crops. coco: from an annotation
file of train2017's size (made up: 118 287 pictures, 149 813 persons) to the first batch, and the largest process.
loader: CPU time of training samples as train.py makes them (pictures, augmentation, targets; the Caffe port writes
its pictures once, without), and of OpenCV's imread and warpAffine alone (on COCO's pictures also of imread and
Pillow's resize). memory: CPU time of training steps as the shipped networks were taught, in a process that keeps
freed memory, as every programme does, and in one that leaves it to the C library. Every side is a process of its own,
but the loader's, in turn.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.bench.harness import one_thread, options, run

one_thread()
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORK = {"lpm_torch": "torch", "deeppose_caffe_port": "torch", "simplebaseline_paddle": "paddle",
             "deepercut_tf": "tensorflow, keras", "deeppose_tf": "tensorflow, keras"}  # fmt: skip
# seconds of CPU time of a process are measured from outside; it prints what is not to count
LEAST = """
import importlib, sys, time
import cv2, {framework}
start = time.process_time()
house = importlib.import_module("{house}.estimator")
print(time.process_time() - start)
house.Estimator("lspet", threads=1).predict(sys.argv[1])
"""
LOOP = """
import importlib, sys, time
from common import datasets
from common.runs.process import keep_memory
keep_memory()
house, root, count, side, boxes, out = sys.argv[1:]
pose_set = datasets.load("lspet", root, f"1-{count}")
if side == "val":
    estimator = importlib.import_module(house).Estimator("lspet", threads=1)
    estimator.predict_pose_set(pose_set.limit(32))
    start = time.perf_counter()
    estimator.predict_pose_set(pose_set)
else:
    predict = importlib.import_module(f"{house}.predict")
    words = ["--weights", "lspet", "--threads", "1", "--no-draw", "--out", out]
    words += [] if house == "deepercut_tf" else ["--boxes", boxes]
    files, spent = sorted(set(map(str, pose_set.images))), []
    for some in (files[:32], files[:32], files):  # the first compiles, the second says what making the network takes
        start = time.perf_counter()
        predict.main([*some, *words])
        spent.append(time.perf_counter() - start)
    start = time.perf_counter() - (spent[2] - spent[1]) * len(files) / (len(files) - 32)
print(time.perf_counter() - start)
"""
FIRST_BATCH = {
    "lpm_torch": """
import torch
from common.runs.process import TorchProcess
from lpm_torch import engine, train
config = train.parse_args(words + ["--preset", "smoke"])
pose_set = engine.load_pose_set(config.dataset, config.data_root, config.train_split)
trainer = engine.Trainer(config, pose_set, TorchProcess(torch, config.device, config.threads))""",
    "simplebaseline_paddle": """
from simplebaseline_paddle import train
config = train.parse_args(words + ["--preset", "smoke"])
pose_set = config.load(config.train_split)
from simplebaseline_paddle import engine, estimator
trainer = engine.Trainer(config, pose_set, estimator.PaddleProcess(None, 1), None)""",
    "deepercut_tf": """
from deepercut_tf import train
config, pose_set = train.prepare(train.parse_args(words + ["--preset", "smoke"]))
from deepercut_tf import engine
trainer = engine.Trainer(config, pose_set, engine.Machine(None, 1))""",
    "deeppose_tf": """
from deeppose_tf import engine, train
config = train.parse_args(words + ["--preset", "cpu"])
trainer = engine.Trainer(config, train.load_data(config), engine.TensorFlow(config))""",
}

# `samples(i)` makes a sample of `paths[i]` (the PoseSet's pictures, if not said), (width, height) of which is `size`
SAMPLES = {
    "lpm_torch": """
from common.runs.settings import resolve
from lpm_torch.config import Config
from lpm_torch.data import ClipDataset
clips = ClipDataset(pose_set, resolve(Config, {"dataset": dataset}).checked(), 32, augment=True)
samples, size = lambda i: clips[0, i], (256, 256)""",
    "deeppose_caffe_port": """
from deeppose_caffe_port.config import settle
from deeppose_caffe_port.images import Pictures
pictures = Pictures(pose_set, settle({"dataset": dataset, "out": "/nowhere"}))
samples, size = pictures.image, pictures.config.size""",
    "simplebaseline_paddle": """
from common.runs.settings import resolve
from simplebaseline_paddle.config import Config
from simplebaseline_paddle.data import PersonDataset
from simplebaseline_paddle.records import records_for
config = resolve(Config, {"dataset": dataset}).checked()
people = PersonDataset(records_for(pose_set, config), pose_set.skeleton, config, training=True)
paths, samples, size = people.records.images, lambda i: people[[(0, i)]], config.input_size""",
    "deepercut_tf": """
from deepercut_tf import data, train
words = ["--dataset", dataset, "--data_root", root, "--train_split", split, "--valid_split", "none"]
words += ["--preset", "lspet"] if dataset == "lspet" else ["--preset", "paper", "--weights", "none"]
config, items = train.prepare(train.parse_args(words))
draws = [draw for draw, _ in zip(data.Sampler(items, config).draws(), range(int(count)))]
def samples(i):
    return data.collate([data.make_sample(items, draws[i], config, None, items.read(items.items[draws[i].index]))], config)
paths = [str(items.items[draw.index].image) for draw in draws]
height, width = items.items[0].size or data.image_size(items.items[0].image)[::-1]
size = round(width * config.global_scale), round(height * config.global_scale)""",
    "deeppose_tf": """
from common.runs.settings import resolve
from deeppose_tf.config import Config, presets
from deeppose_tf.data import Crops, Persons, example, generator
persons = Persons(pose_set, "correct")
crops = Crops.for_training(resolve(Config, presets()["paper"]), pose_set.skeleton)
samples, size = lambda i: example(persons, i, crops, generator(0, 0, i)), (227, 227)""",
}
# what its original resizes by, on both sides
PILLOW = """
from PIL import Image
def opencv(i):
    scale, image = draws[i].scale, cv2.imread(paths[i])
    sides = [int(side * scale) for side in image.shape[1::-1]]
    return np.asarray(Image.fromarray(image).resize(sides, Image.Resampling.BILINEAR))
"""
LOADER = """
import sys
from collections import deque
import cv2
import numpy as np
from common import datasets
from common.runs.process import keep_memory
from tests.bench.harness import take_turns
keep_memory()
cv2.setNumThreads(0)
dataset, root, split, count, runs = sys.argv[1:]
pose_set = datasets.load(dataset, root, split)
pose_set = pose_set.select((pose_set.visible > 0).any(1)).limit(int(count))
paths, matrix = list(map(str, pose_set.images)), np.array([[0.9, 0.1, 5], [-0.1, 0.9, 20]])
opencv = lambda i: cv2.warpAffine(cv2.imread(paths[i]), matrix, size)
{samples}
order = np.random.default_rng(0).permutation(len(paths)).tolist()
keep_none = lambda make: lambda: deque(map(make, order), maxlen=0)  # holding all samples would cost new pages
print(len(paths), *take_turns(dict(ours=keep_none(samples), opencv=keep_none(opencv)), int(runs)).values())
"""

# without the first steps, which compile
MEMORY = """
import importlib, resource, sys
from common.runs import process
from common.runs.session import Session
from tests.bench.harness import cpu_of_all
house, how, *words = sys.argv[1:]
if how == "without":
    process.keep_memory = lambda: None
track = Session.track
def timed(self, batches):
    for number, batch in enumerate(track(self, batches)):
        if number == 5:
            start = cpu_of_all()
        elif number > 5:
            spent = (cpu_of_all() - start) / (number - 5)  # without the last step, which saves
        yield batch
    print("MEASURED", 1000 * spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
Session.track = timed
sys.exit(importlib.import_module(f"{house}.train").main(words))
"""
STEPS = {
    "lpm_torch": "--model lpm --limit 640 --epochs 1 --widths [128] --workers 1",
    "deeppose_caffe_port": "--max_steps 120 --amp bf16 --workers 1",
    "simplebaseline_paddle": "--limit 960 --base_width 24 --input_height 128 --input_width 128 --sigma 2 --rot_factor 60"
    " --epochs 1 --workers 1",
    "deepercut_tf": "--rotate 60 --amp bf16 --schedule [[0.001,120]] --workers 1",
    "deeppose_tf": "--max_steps 60 --channels 0.18 --amp bf16 --workers 1",
}


def child(code: str, *words: str, house: str = "") -> tuple[float, list[str]]:
    """(CPU seconds, printed lines) of a Python process with its children; RuntimeError with its last words."""
    before = os.times()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    start = [sys.executable, "-c", code] if code else [sys.executable, str(ROOT / house / "predict.py")]
    done = subprocess.run([*start, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{house} {words}: {done.stderr[-1000:]}")
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return spent, done.stdout.split("\n")


def bench_picture(args: argparse.Namespace) -> dict:
    """A row a house."""
    photo, rows = str(ROOT / "examples/photo.jpg"), []
    with tempfile.TemporaryDirectory() as folder:
        for house, framework in FRAMEWORK.items():
            words, least, whole = [photo, "--weights", "lspet", "--threads", "1", "--out", folder], [], []
            for _ in range(args.runs + 1):  # the first writes what Python compiles
                spent, printed = child(LEAST.format(framework=framework, house=house), photo)
                least.append(spent - float(printed[0]))
                whole.append(child("", *words, house=house)[0])
            a, b = statistics.median(least[1:]), statistics.median(whole[1:])
            rows.append([house, a, b, f"{b / a:.2f}"])
    return {"columns": ["house", "at least, CPU s", "predict.py, CPU s", "ratio"], "rows": rows}


def bench_folder(args: argparse.Namespace) -> dict:
    """A row a house."""
    from common import datasets

    pose_set, rows = datasets.load("lspet", need(args), f"1-{args.pictures}"), []
    with tempfile.TemporaryDirectory() as folder:
        boxes = Path(folder) / "boxes.csv"
        with open(boxes, "w", newline="") as file:
            csv.writer(file).writerows(
                [p.name, *box] for p, box in zip(map(Path, pose_set.images), pose_set.box.round(2))
            )
        for house in FRAMEWORK:
            words = [house, str(Path(args.data_root).resolve()), str(args.pictures)]
            times: dict[str, list[float]] = {"val": [], "predict": []}
            for _ in range(args.runs):
                for side, spent in times.items():
                    spent.append(float(child(LOOP, *words, side, str(boxes), folder)[1][-2]))
            a, b = (statistics.median(spent) for spent in times.values())
            rows.append([house, a, b, f"{b / a:.2f}"])
    return {"columns": ["house", "val's loop, s", "predict.py's loop, s", "ratio"], "rows": rows,
            "note": f"{args.pictures} pictures of LSPET, wall time"}  # fmt: skip


def make_annotations(folder: Path, pictures: int, persons: int, named: list[str]) -> None:
    """An annotation file like COCO's, with outlines; one picture stands for all."""
    import cv2
    import numpy as np

    rng, where = np.random.default_rng(0), folder / "images" / "train2017"
    where.mkdir(parents=True)
    cv2.imwrite(str(folder / "one.jpg"), rng.integers(0, 255, (480, 640, 3), np.uint8))
    images = [{"id": n, "file_name": f"{n:012}.jpg", "width": 640, "height": 480} for n in range(1, pictures + 1)]
    for image in images:
        (where / image["file_name"]).symlink_to(folder / "one.jpg")
    of = np.sort(rng.integers(1, pictures * 64 // 118, persons))  # 64 000 of train2017's 118 000 show people
    entries = []
    for number, image in enumerate(of.tolist(), 1):
        x, y, w, h = rng.uniform((0, 0, 40, 60), (400, 250, 200, 220)).round(2).tolist()
        places, visible = rng.uniform((x, y), (x + w, y + h), (57, 2)), rng.choice(3, 17, p=(0.4, 0.1, 0.5))
        joints = np.column_stack([places[:17].round(), visible]).astype(int) * (visible > 0)[:, None]
        entries.append({"id": number, "image_id": image, "category_id": 1, "iscrowd": 0, "bbox": [x, y, w, h],
                        "area": w * h * 0.6, "num_keypoints": int((visible > 0).sum()), "keypoints": joints.ravel().tolist(),
                        "segmentation": [places[17:].round(2).ravel().tolist()]})  # fmt: skip
    (folder / "annotations").mkdir()
    categories = [{"id": 1, "name": "person", "keypoints": named, "skeleton": []}]
    whole = {"images": images, "annotations": entries, "categories": categories}
    (folder / "annotations/person_keypoints_train2017.json").write_text(json.dumps(whole))


def bench_coco(args: argparse.Namespace) -> dict:
    """A row a house that learns COCO."""
    from common import datasets

    end = """
batch = next(iter(trainer.batches()))
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
sys.stdout.flush()
os._exit(0)
"""
    with tempfile.TemporaryDirectory() as folder:
        make_annotations(Path(folder), 118_287, 149_813, list(datasets.record("coco").skeleton.joints))
        words = ["--dataset", "coco", "--data_root", folder, "--valid_split", "none", "--threads", "1"]
        begin = "import os, resource, sys, time\nfrom common.runs.process import keep_memory\nkeep_memory()\n"
        begin += f"words = {[*words, '--out', f'{folder}/run']}\nimport "
        rows = []
        for house, code in FIRST_BATCH.items():
            code = f"{begin}{FRAMEWORK[house]}\nstart = time.perf_counter(){code}{end}"
            found = [list(map(float, child(code, house=house)[1][-2].split())) for _ in range(args.runs)]
            rows.append([house, *(statistics.median(column) for column in zip(*found))])
    return {"columns": ["house", "file to first batch, wall s", "largest process, GB"], "rows": rows}


def bench_loader(args: argparse.Namespace) -> dict:
    """A row a house."""
    rows, split = [], {"lspet": "1-4000"}.get(args.dataset, "train")
    pillow = {"deepercut_tf, of imread and Pillow's resize": SAMPLES["deepercut_tf"] + PILLOW}
    for house, code in (SAMPLES | (pillow if args.dataset == "coco" else {})).items():
        words = [args.dataset, str(Path(need(args)).resolve()), split, str(args.pictures), str(args.runs)]
        count, ours, opencv = map(float, child(LOADER.format(samples=code), *words, house=house)[1][-2].split())
        rows.append([house, count / ours, count / opencv, f"{opencv / ours:.2f}"])
    columns = ["house", "samples a CPU second", "of OpenCV alone", "share"]
    return {
        "columns": columns,
        "rows": rows,
        "note": f"at most {args.pictures} persons of {args.dataset}, CPU time, files read before",
    }


def bench_memory(args: argparse.Namespace) -> dict:
    """A row a house."""
    common = ["--data_root", str(Path(need(args)).resolve()), "--train_split", "1-1000", "--valid_split", "none"]
    rows = []
    for house, more in STEPS.items():
        preset = ["--preset", "lspet"] if house == "deepercut_tf" else ["--preset", "cpu", "--dataset", "lspet"]
        found: dict[str, list] = {"without": [], "with": []}
        for _ in range(args.runs):
            for how, runs in found.items():
                with tempfile.TemporaryDirectory() as folder:
                    words = [house, how, *common, *preset, *more.split(), "--threads", "1", "--out", folder + "/run"]
                    lines = child(MEMORY, *words, house=house)[1]
                    runs.append(next([float(n) for n in line.split()[1:]] for line in lines if "MEASURED" in line))
        (a, least), (b, most) = (map(statistics.median, zip(*runs)) for runs in found.values())
        rows.append([house, a, b, f"{b / a:.2f}", f"{least:.2f}", f"{most:.2f}"])
    columns = ["house", "CPU ms a step, left to the C library", "kept", "ratio", "largest, GB", "kept, GB"]
    return {"columns": columns, "rows": rows, "note": "largest: the training process alone"}


def need(args: argparse.Namespace) -> str:
    """The data set's folder."""
    if not args.data_root or (args.what == "folder" and args.dataset != "lspet"):
        raise SystemExit(f"error: {args.what} needs --data_root, the folder of the data set (of LSPET for `folder`)")
    return args.data_root


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parts = {"picture": bench_picture, "folder": bench_folder, "coco": bench_coco, "loader": bench_loader,
             "memory": bench_memory}  # fmt: skip
    parser = options(__doc__ or "", tuple(parts), runs=3)
    parser.add_argument("--data_root", help="folder, memory: where LSPET is; loader: where the data set is")
    parser.add_argument("--dataset", default="lspet", help="loader: lspet or coco (default: lspet)")
    parser.add_argument("--pictures", type=int, default=400, help="folder, loader: so many of them (default: 400)")
    words = sys.argv[1:] if argv is None else argv
    return run(parser.parse_args(words), parts, words, __file__)


if __name__ == "__main__":
    sys.exit(main())
