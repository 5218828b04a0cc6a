"""A drawn data set that several files of these tests read."""

import json

import pytest

from common.datasets import synthetic


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic") / "coco"
    synthetic.main(["coco", str(root), "--count", "8"])
    path = root / "annotations" / "person_keypoints_train2017.json"
    content = json.loads(path.read_text())
    # somebody without keypoints, as COCO has
    content["annotations"][-1] |= {"keypoints": [0] * 51, "num_keypoints": 0}
    path.write_text(json.dumps(content))
    return root
