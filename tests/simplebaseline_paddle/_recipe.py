"""What the fixtures' README says about weights and inputs, so that the tests can build them."""

import zlib

import numpy as np


def _random_state(name, seed):
    return np.random.RandomState((zlib.crc32(name.encode("ascii")) + seed) % 2**32)


def recipe_weight(name, shape, seed):
    """A tensor of the fixtures' network by its PaddlePaddle 1.x name."""
    rs = _random_state(name, seed)
    if name.startswith("batch_norm"):
        values = 0.5 + rs.random_sample(shape) if name.endswith(("w_0", "w_2")) else 0.1 * rs.standard_normal(shape)
    elif name.endswith(".b_0"):
        values = 0.1 * rs.standard_normal(shape)
    elif name.startswith("conv2d_transpose"):
        values = rs.standard_normal(shape) * np.sqrt(2.0 / (shape[0] * shape[2] * shape[3] / 4.0))
    else:
        values = rs.standard_normal(shape) * np.sqrt(1.0 / (shape[1] * shape[2] * shape[3]))
    return values.astype(np.float32)


def recipe_input(tag, shape, seed):
    """A network input of the fixtures by its tag."""
    return _random_state(tag, seed).standard_normal(shape).astype(np.float32)


def recipe_network(depth, joints, seed):
    """PoseResNet with the fixtures' weights, and {PaddlePaddle 1.x name: array}."""
    from simplebaseline_paddle.model import PoseResNet
    from simplebaseline_paddle.weight_files import fluid_names, from_fluid, put_weights

    model = PoseResNet(depth, joints, init="zeros")
    own = model.state_dict()
    fluid = {name: recipe_weight(name, tuple(own[ours].shape), seed) for name, ours in fluid_names(depth).items()}
    put_weights(model, from_fluid(fluid), "recipe")
    return model, fluid


def write_mpii(root, train, valid):
    """A small MPII folder in the JSON form: pictures of noise with a bright figure at the joints."""
    import json

    import cv2

    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "annot").mkdir()
    for split, count in (("train", train), ("valid", valid)):
        entries = []
        for i in range(count):
            name = f"{split}_{i:05d}.jpg"
            image = cv2.resize(rng.integers(0, 200, (12, 16, 3), np.uint8), (160, 120))
            joints = rng.uniform((40, 25), (120, 95), (16, 2))
            for x, y in joints:
                cv2.circle(image, (int(x), int(y)), 3, (255, 255, 255), -1)
            cv2.imwrite(str(root / "images" / name), image)
            person = {
                "image": name,
                "center": [81.0, 55.0],
                "scale": 0.55,
                "joints": (joints + 1).tolist(),
                "joints_vis": [1] * 16,
            }
            entries.append({**person, "head_box": [60, 20, 80, 40]})
        (root / "annot" / f"{split}.json").write_text(json.dumps(entries))
    return root


def write_coco(root, images):
    """A small COCO folder: two persons in each picture of noise, one's joints far from its box's middle."""
    import json

    import cv2

    rng = np.random.default_rng(0)
    (root / "images/val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    for i in range(1, images + 1):
        name = f"{i:012d}.jpg"
        cv2.imwrite(str(root / "images/val2017" / name), rng.integers(0, 255, (120, 160, 3), np.uint8))
        content["images"].append({"id": i, "file_name": name, "width": 160, "height": 120})
        for k, box in enumerate(([10.0, 10.0, 50.0, 90.0], [80.0, 20.0, 60.0, 80.0])):
            points = np.concatenate([rng.uniform(0, 1, (17, 2)) * box[2:] + box[:2], np.full((17, 1), 2)], axis=1)
            person = {"id": 10 * i + k, "image_id": i, "category_id": 1, "iscrowd": 0, "area": 3000.0, "bbox": box}
            person |= {"keypoints": points.ravel().tolist(), "num_keypoints": 17, "segmentation": []}
            content["annotations"].append(person)
    (root / "annotations/person_keypoints_val2017.json").write_text(json.dumps(content))
    return root


def write_own(root, joints, limbs):
    """A user's own data: four pictures with one person each."""
    import json

    import cv2

    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    images = []
    for i in range(4):
        cv2.imwrite(str(root / f"images/{i}.png"), rng.integers(0, 255, (96, 80, 3), np.uint8))
        points = np.concatenate([rng.uniform(20, 60, (len(joints), 2)), np.full((len(joints), 1), 2)], 1)
        images.append({"file": f"images/{i}.png", "persons": [{"box": [10, 10, 60, 70], "joints": points.tolist()}]})
    skeleton = {"name": "own", "joints": joints, "limbs": limbs}
    (root / "train.json").write_text(json.dumps({"skeleton": skeleton, "images": images}))
    return root


def launch(folder, command, processes=2):
    """Run a program under paddle.distributed.launch on CPUs; its output is in the error when it fails."""
    import os
    import subprocess
    import sys
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    # the launcher takes an empty CUDA_VISIBLE_DEVICES for a list of devices
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"} | {"OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
    done = subprocess.run(
        [*launcher, "--log_dir", str(folder / "launch"), *command],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        logs = "\n".join(p.read_text()[-3000:] for p in sorted((folder / "launch").glob("workerlog*")))
        raise AssertionError(f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}\n{logs}")
