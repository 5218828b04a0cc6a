"""AI Challenger's keypoint annotations -> COCO's layout, as galaxy-fangfang/AI-challenger-pose-estimation maps them.

    python deepercut_tf/ai2coco_art_neckhead_json.py --keypoint_json keypoint_train_annotations.json --img_dir FOLDER

Writes coco_art_neckhead_NAME.json beside the input; call it person_keypoints_train2014.json in the annotations folder
to train with dataset_type: aic. (dataset_type: ai_challenger reads the original files directly, with 14 joints.)

Places of the 17 COCO keypoints: 0 neck, 1 head top, 2 to 4 unused, 5 to 16 shoulders, elbows, wrists, hips, knees,
ankles as in COCO. Flags: AI Challenger 1 visible, 2 occluded, 3 not labelled -> COCO 2, 1, 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from common.datasets.files import fit, read_json
from common.errors import DataError, named
from common.files import write_text
from common.images import image_size
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
    (pycocotools takes a match with number 0 for none). DataError naming image and person for a bad entry.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for image, entry in enumerate(entries):
        try:
            if entry["image_id"] not in sizes:
                continue
            images.append(_image(entry, image, sizes[entry["image_id"]], compat))
            for who, points in entry["keypoint_annotations"].items():
                if np.size(points) != 3 * len(AIC14):
                    raise ValueError(f"{who} has {np.size(points)} numbers, not 3 for each of {len(AIC14)} joints")
                number = len(annotations) if compat else len(annotations) + 1
                about = {"image_id": image, "id": number, "iscrowd": 0} | ({} if compat else {"category_id": 1})
                annotations.append(about | _person(points, entry["human_annotations"][who], compat))
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            what = f"image {entry.get('image_id')} cannot be read ({type(error).__name__}: {error})"
            remedy = "keypoint_annotations need 14 joints x, y, flag a person, human_annotations x0, y0, x1, y1"
            raise DataError(f"AI Challenger annotations: {what}; {remedy}") from error
    info = {"description": "AI challenger keypoint in mscoco format"}
    content = {"info": info, "images": images, "annotations": annotations, "neck": []}
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(AIC17.joints)}
    category["skeleton"] = [[a + 1, b + 1] for a, b in AIC17.limbs]
    return content if compat else content | {"categories": [category]}


def _image(entry: dict, number: int, size: tuple[int, int], compat: bool) -> dict:
    name = entry["image_id"] if compat else entry["image_id"] + ".jpg"
    url = entry["url"] if compat else entry.get("url", "")
    captured = "data_captured" if compat else "date_captured"  # the original's spelling
    image = {"license": 0, "file_name": name, "width": size[0], "height": size[1], "id": number}
    return image | {captured: 0, "coco_url": url, "flickr_url": url}


def _person(points: list, box: list, compat: bool) -> dict:
    table = np.reshape(points, (len(AIC14), 3))
    flags = [_FLAG.get(int(v), 2) for v in table[:, 2]]
    keypoints = np.zeros((len(AIC17), 3), table.dtype)
    for slot, joint in SLOTS.items():
        if compat or flags[joint]:
            keypoints[slot] = *table[joint, :2], flags[joint]
    counted = [flag > 0 for joint, flag in enumerate(flags) if not compat or AIC14.joints[joint] != "neck"]
    x0, y0, x1, y1 = box
    person = {"keypoints": keypoints.ravel().tolist(), "num_keypoints": sum(counted)}
    person |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
    return person | {"segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]}


def run(args: argparse.Namespace) -> Path:
    """Convert and return the written path; images that are not there are left out. DataError on bad input."""
    path = args.keypoint_json
    entries = read_json(path)
    fit(entries, [{"image_id": str}], f"{path}: ")
    sizes, missing = {}, []
    for name in (entry["image_id"] for entry in entries):
        try:
            sizes[name] = image_size(args.img_dir / f"{name}.jpg")
        except DataError:
            missing.append(name)
    if not sizes:
        raise DataError(f"no image of {path} is in {args.img_dir}; give the folder with IMAGE_ID.jpg as --img_dir")
    if missing:
        count = f"{len(missing)} of {len(entries)} images"
        print(f"warning: {count} are not in {args.img_dir} and were left out, first {missing[0]}", file=sys.stderr)
    with named(path):
        content = convert(entries, sizes, args.compat)
    return write_text(path.with_name(f"coco_art_neckhead_{path.name}"), json.dumps(content))


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = Parser(__doc__)
    parser.option("keypoint_json", required=True, metavar="FILE", type=Path, text="annotation file")
    parser.option("img_dir", required=True, metavar="FOLDER", type=Path, text="the images, for their sizes")
    how = "the original's: no category, no extension, neck not counted"
    parser.option("compat", type=bool, default=False, text=how)
    return exit_code(lambda: run(parser.parse_args(argv)), "{}")


if __name__ == "__main__":
    sys.exit(main())
