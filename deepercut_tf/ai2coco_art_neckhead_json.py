"""AI Challenger's keypoint annotations -> COCO's layout, as galaxy-fangfang/AI-challenger-pose-estimation maps them.

    python deepercut_tf/ai2coco_art_neckhead_json.py --keypoint_json keypoint_train_annotations.json --img_dir keypoint_train_images

Writes coco_art_neckhead_NAME.json beside the input; call it person_keypoints_train2014.json in the annotations folder
to train with dataset_type: aic. (dataset_type: ai_challenger reads the original files directly, with 14 joints.)

Places of the 17 COCO keypoints: 0 neck, 1 head top, 2 to 4 unused, 5 to 16 shoulders, elbows, wrists, hips, knees,
ankles as in COCO. Flags: AI Challenger 1 visible, 2 occluded, 3 not labelled -> COCO 2, 1, 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from common.datasets.files import read_json
from common.errors import DataError
from common.files import write_text
from common.runs.options import Parser
from common.runs.process import exit_code
from common.skeletons import AIC14
from deepercut_tf.joints import AIC17

# slot -> AI Challenger's joint number; slots 2 to 4 stay empty
SLOTS = {slot: AIC14.index(joint) for slot, joint in enumerate(AIC17.joints) if joint in AIC14.joints}
_FLAG = {1: 2, 2: 1, 3: 0}


def convert(entries: list[dict], sizes: dict[str, tuple[int, int]], compat: bool = False) -> dict:
    """COCO content from AI Challenger `entries`; `sizes` image_id -> (width, height), images without one are left out.

    Correct: with a category, file extensions, the neck counted, unlabelled joints zeroed, persons numbered from 1
    (pycocotools takes a match with number 0 for none). `compat` writes what the original wrote. DataError naming image
    and person for a bad entry.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for number, entry in enumerate(entries):
        with _naming(entry):
            if entry["image_id"] not in sizes:
                continue
            images.append(_image(entry, number, sizes[entry["image_id"]], compat))
            for who, table in _tables(entry):
                annotations.append(
                    _annotation(table, entry["human_annotations"][who], number, len(annotations) + (not compat), compat)
                )
    info = {"description": "AI challenger keypoint in mscoco format"}
    content = {"info": info, "images": images, "annotations": annotations, "neck": []}
    return content if compat else content | {"categories": [_category()]}


@contextmanager
def _naming(entry: dict):
    """What is wrong with an entry as a DataError that names its image."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"image {entry.get('image_id')} cannot be read ({type(error).__name__}: {error})"
        remedy = (
            "every person needs 14 joints x, y, flag in keypoint_annotations and x0, y0, x1, y1 in human_annotations"
        )
        raise DataError(f"AI Challenger annotations: {what}; {remedy}") from error


def _tables(entry: dict) -> list[tuple[str, np.ndarray]]:
    """(name, (14,3) rows x, y, flag) of an image's persons."""
    people = entry["keypoint_annotations"]
    for who, points in people.items():
        if np.size(points) != 3 * len(AIC14):
            raise ValueError(f"{who} has {np.size(points)} numbers, not 3 for each of {len(AIC14)} joints")
    return [(who, np.asarray(points).reshape(len(AIC14), 3)) for who, points in people.items()]


def _image(entry: dict, number: int, size: tuple[int, int], compat: bool) -> dict:
    name = entry["image_id"] if compat else entry["image_id"] + ".jpg"
    url = entry["url"] if compat else entry.get("url", "")
    captured = "data_captured" if compat else "date_captured"  # the original's spelling
    image = {"license": 0, "file_name": name, "width": size[0], "height": size[1], "id": number}
    return image | {captured: 0, "coco_url": url, "flickr_url": url}


def _annotation(table: np.ndarray, box: list, image: int, number: int, compat: bool) -> dict:
    flags = [_FLAG.get(int(v), 2) for v in table[:, 2]]
    keypoints = []
    for slot in range(len(AIC17)):
        joint = SLOTS.get(slot)
        if joint is None or (not compat and flags[joint] == 0):
            keypoints += [0, 0, 0]
        else:
            keypoints += [*table[joint, :2].tolist(), flags[joint]]
    x0, y0, x1, y1 = box
    counted = [flag > 0 for joint, flag in enumerate(flags) if not compat or AIC14.joints[joint] != "neck"]
    made = {"num_keypoints": sum(counted), "image_id": image, "id": number, "keypoints": keypoints, "iscrowd": 0}
    made |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
    made["segmentation"] = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    return made if compat else made | {"category_id": 1}


def _category() -> dict:
    skeleton = [[a + 1, b + 1] for a, b in AIC17.limbs]
    return {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(AIC17.joints), "skeleton": skeleton}


def read_entries(path: str | Path) -> list[dict]:
    """The annotation file's list; DataError when it is none."""
    entries = read_json(Path(path))
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "image_id" in e for e in entries):
        fields = "{image_id, keypoint_annotations, human_annotations}"
        raise DataError(f"{path} is no list of {fields}; give AI Challenger's annotation file")
    return entries


def image_sizes(entries: list[dict], folder: str | Path) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """({image_id: (width, height)} from FOLDER/image_id.jpg, image_ids without a readable file)."""
    from PIL import Image

    sizes, missing = {}, []
    for name in (entry["image_id"] for entry in entries):
        try:
            with Image.open(Path(folder) / f"{name}.jpg") as file:
                sizes[name] = file.size
        except OSError:
            missing.append(name)
    return sizes, missing


def submission(image_ids: list[str], people: list[np.ndarray], flags: list[np.ndarray]) -> list[dict]:
    """AI Challenger's submission format: per image its persons' (P,14,2) joints and (P,14) flags; a joint with flag 0
    or NaN is 0, 0, 0.

    `image_ids` lose what follows their first dot, as the official evaluator cuts them.
    """
    return [
        {"image_id": str(image_id).split(".")[0], "keypoint_annotations": _humans(joints, flag)}
        for image_id, joints, flag in zip(image_ids, people, flags, strict=True)
    ]


def _humans(joints: np.ndarray, flags: np.ndarray) -> dict[str, list]:
    table = np.concatenate([joints, flags[..., None]], axis=-1)
    table = np.where((flags[..., None] > 0) & np.isfinite(table), table, 0.0)
    return {f"human{p + 1}": person.ravel().tolist() for p, person in enumerate(table)}


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = Parser(__doc__)
    parser.option("keypoint_json", required=True, metavar="FILE", text="annotation file")
    parser.option("img_dir", required=True, metavar="FOLDER", text="the images, whose sizes the file does not give")
    parser.option(
        "compat", type=bool, default=False, text="the original's: no category, no extension, neck not counted"
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> Path:
    """Convert and return the written path; images that are not there are left out. DataError on bad input."""
    path = Path(args.keypoint_json)
    entries = read_entries(path)
    sizes, missing = image_sizes(entries, args.img_dir)
    if missing:
        count = f"{len(missing)} of {len(entries)} images"
        print(f"warning: {count} are not in {args.img_dir} and were left out, first {missing[0]}", file=sys.stderr)
    if not sizes:
        raise DataError(f"no image of {path} is in {args.img_dir}; give the folder with IMAGE_ID.jpg as --img_dir")
    text = json.dumps(convert(entries, sizes, args.compat))
    return write_text(path.with_name(f"coco_art_neckhead_{path.name}"), text)


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: run(parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
