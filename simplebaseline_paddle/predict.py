"""Find the joints of people in any image, folder or video; draw them and write them as JSON lines.

    python simplebaseline_paddle/predict.py photo.jpg --checkpoint PATH                      # one person, the whole picture
    python simplebaseline_paddle/predict.py photo.jpg --box 40,20,180,360 --box 300,25,150,340
    python simplebaseline_paddle/predict.py folder/ --detections boxes.json --min_box_score 0.3     # COCO detection file
    python simplebaseline_paddle/predict.py clip.mp4 --smooth

People are looked for in --box (x,y,w,h), in the boxes of a detection file, or in the whole picture; nothing here detects them. An entry of
the detection file belongs to the picture whose name's number is its image_id, or which has its file_name.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from common.runs.first import predicting  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from simplebaseline_paddle.arguments import drop_ignored, plain_switches, switches  # noqa: E402
from simplebaseline_paddle.config import DATASETS  # noqa: E402
from simplebaseline_paddle.val import common_arguments, load_model  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", help="image, folder, video or camera number")
    add(
        "--dataset",
        choices=DATASETS,
        help="whose joints, and whose output folder has the checkpoint (default: the checkpoint's; folder: mpii)",
    )
    common_arguments(parser)
    own_arguments(parser)
    return parser.parse_args(
        plain_switches(drop_ignored(sys.argv[1:] if argv is None else argv), switches() | {"random_weights"})
    )


def own_arguments(parser: argparse.ArgumentParser) -> None:
    """Boxes and output."""
    add = parser.add_argument
    add("--box", action="append", help="x,y,w,h of a person, once a person (default: the whole picture)")
    add("--detections", help="COCO detection JSON with the persons' boxes")
    add("--min_box_score", type=float, default=0.0, help="least score of a detection (default: 0)")
    add(
        "--min_score",
        type=float,
        default=0.2,
        help="joints with a lower score are not drawn; the JSON has all (default: 0.2)",
    )
    predicting.add_arguments(parser, "; one person only")


def parse_boxes(texts: list[str] | None):
    """(n,4) x, y, w, h; None without any. DataError for other text or a box without an area."""
    import numpy as np

    return np.array([predicting.parse_box(text) for text in texts]) if texts else None


class Detections:
    """The boxes of a detection file by picture; call it with a picture's name for (boxes (n,4), scores (n,))."""

    def __init__(self, path: str, least: float):
        from simplebaseline_paddle.records import read_detections

        self.path, self.by_name = path, {}
        for entry in read_detections(Path(path)):
            if entry["score"] >= least and min(entry["bbox"][2:]) > 0:
                key = entry.get("file_name") or str(entry["image_id"])
                self.by_name.setdefault(key, []).append((entry["bbox"], entry["score"]))
        self.used = 0

    def __call__(self, name: str):
        import numpy as np

        number = re.search(r"(\d+)$", Path(name).stem)
        key = name if name in self.by_name else str(int(number[1])) if number else None
        found = self.by_name.get(key, [])
        self.used += len(found)
        return np.array([b for b, _ in found], float).reshape(-1, 4), np.array([s for _, s in found])

    def check_used(self) -> None:
        """DataError when no picture was one of the file's."""
        if self.by_name and not self.used:
            raise DataError(
                f"detection file {self.path} has no box for any of these pictures; its first image is {next(iter(self.by_name))}"
            )


class Looker:
    """The network on boxes of one picture."""

    def __init__(self, model, config, machine, skeleton, engine: str):
        from simplebaseline_paddle.infer import make_forward

        self.config, self.skeleton = config, skeleton
        self.forward = make_forward(model, config.input_size, engine, machine.gpu, machine.threads)

    def __call__(self, image, boxes):
        """(H,W,3) uint8 BGR and (n,4) boxes -> joints (n,K,2) image pixels and scores (n,K)."""
        import numpy as np

        from common.codecs import decode_maps
        from simplebaseline_paddle.engine import maps_of
        from simplebaseline_paddle.records import center_and_scale
        from simplebaseline_paddle.transforms import Person, crop, to_image

        count = len(self.skeleton)
        if not len(boxes):
            return np.zeros((0, count, 2)), np.zeros((0, count), np.float32)
        center, scale = center_and_scale(boxes, self.config, "own")
        nobody = np.zeros((count, 2)), np.zeros(count, bool)
        crops = [
            crop(image, Person(c, s, *nobody), self.config.input_size, self.skeleton)[0] for c, s in zip(center, scale)
        ]
        maps = maps_of(self.forward, np.stack(crops), self.skeleton.mirror, self.config)
        cells, score = decode_maps(maps, 0.25 if self.config.post_process else 0.0)
        return to_image(cells, center, scale, self.config.map_size), score


def prepare(args: argparse.Namespace):
    """The `Looker` of the options' checkpoint. DataError when there is no checkpoint or no skeleton has its number of joints."""
    from common.skeletons import COCO17, SKELETONS
    from simplebaseline_paddle.machine import Machine
    from simplebaseline_paddle.val import pick_checkpoint

    if pick_checkpoint(args) is None and not args.random_weights:
        raise DataError(
            f"no checkpoint of {args.dataset or 'mpii'} in {args.model_save_dir}: train first, or give --checkpoint PATH"
        )
    machine = Machine(args.use_gpu, args.threads)
    model, config, _ = load_model(args, None)
    known = {"mpii": SKELETONS["mpii16"], "coco": COCO17, "lsp": SKELETONS["lsp14"], "lspet": SKELETONS["lsp14"], "penn_action": SKELETONS["penn13"],
             "jhmdb": SKELETONS["jhmdb15"], "ai_challenger": SKELETONS["aic14"]}  # fmt: skip
    skeleton = known.get(config.dataset)
    if skeleton is None or len(skeleton) != config.kp_dim:
        names = [d for d, s in known.items() if len(s) == config.kp_dim]
        raise DataError(
            f"the checkpoint has {config.kp_dim} joints, {config.dataset} another number; try --dataset {' or '.join(names) or '?'}"
        )
    return Looker(model, config, machine, skeleton, args.engine)


def run(args: argparse.Namespace) -> Path:
    """Write joints.jsonl and the drawings (pictures, or one video); returns the folder."""
    from common.draw import draw_pose

    source, boxes = predicting.open_source(args.source), parse_boxes(args.box)
    smooth = source.smoother(args.smooth)
    detections = Detections(args.detections, args.min_box_score) if args.detections else None
    looker = prepare(args)

    def answer(index: int, name: str, image):
        used, box_score = boxes_in(image, name, boxes, detections)
        joints, score = looker(image, used)
        joints = smooth(joints)
        drawing = draw_pose(image, joints, looker.skeleton, score, min_score=args.min_score) if len(joints) else image
        return [row_of(index, name, joints, score, used, box_score, looker.skeleton)], drawing

    out = predicting.write_answers(
        source, Path(args.out) if args.out != "output/predict" else ROOT / args.out, answer, args.limit
    )
    if detections:
        detections.check_used()
    return out


def boxes_in(image, name: str, boxes, detections):
    """(boxes (n,4), scores (n,)) to look at in one picture."""
    import numpy as np

    if detections is not None:
        return detections(name)
    height, width = image.shape[:2]
    whole = np.array([[0.0, 0.0, width, height]])
    used = whole if boxes is None else boxes
    return used, np.ones(len(used))


def row_of(index: int, name: str, joints, score, boxes, box_score, skeleton) -> dict:
    """One picture as JSON; coordinates in its own pixels."""
    people = [
        {"box": b.tolist(), "box_score": float(bs), "joints": j.round(2).tolist(), "score": s.round(4).tolist()}
        for j, s, b, bs in zip(joints, score, boxes, box_score)
    ]
    return {"image": name, "frame": index, "joint_names": skeleton.joints, "people": people}


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: run(parse_args(argv)), "joints and drawings are in {}")


if __name__ == "__main__":
    sys.exit(main())
