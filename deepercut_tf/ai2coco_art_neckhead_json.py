"""AI Challenger keypoint annotations -> COCO's layout (joints in the slots that ai_challenger.py lists).

    python deepercut_tf/ai2coco_art_neckhead_json.py --keypoint_json keypoint_train_annotations.json --img_dir keypoint_train_images

Writes coco_art_neckhead_NAME.json beside the input; call it person_keypoints_train2014.json in the annotations folder to train with
dataset_type: aic. (dataset_type: ai_challenger reads the original files directly, with 14 joints.)
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from deepercut_tf.options import positive_number  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keypoint_json", required=True, help="annotation file")
    parser.add_argument(
        "--img_dir", required=True, help="folder of the images, which the file does not give the sizes of"
    )
    parser.add_argument(
        "--compat", action="store_true", help="the original's file: no category, no extension, neck not counted"
    )
    parser.add_argument(
        "--keep_missing",
        action="store_true",
        help="keep images without a file, with the smallest size that holds their persons",
    )
    parser.add_argument("--limit", type=positive_number, help="the first N images only")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> Path:
    """Convert and return the written path. DataError on bad input."""
    from common.files import atomic_write
    from deepercut_tf.ai_challenger import convert, image_sizes, read_entries

    path = Path(args.keypoint_json)
    entries = read_entries(path)[: args.limit]
    sizes, missing = image_sizes(entries, args.img_dir, args.keep_missing)
    if missing:
        what = "kept with an estimated size" if args.keep_missing else "left out"
        print(
            f"warning: {len(missing)} of {len(entries)} images are not in {args.img_dir} and were {what}, first {missing[0]}",
            file=sys.stderr,
        )
    if not sizes:
        raise DataError(f"no image of {path} is in {args.img_dir}; give the folder with IMAGE_ID.jpg as --img_dir")
    text = json.dumps(convert(entries, sizes, args.compat))
    return atomic_write(
        path.with_name(f"coco_art_neckhead_{path.name}"), lambda temporary: temporary.write_text(text, encoding="utf-8")
    )


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    args = parse_args(argv)
    return exit_code(lambda: run(args), "{}")


if __name__ == "__main__":
    sys.exit(main())
