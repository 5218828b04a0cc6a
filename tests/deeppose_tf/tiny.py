"""Small data and settings that the tests share."""

import numpy as np

from deeppose_tf import train
from deeppose_tf.config import Config
from deeppose_tf.csv_files import load_split

SMALL = {
    "channels": 0.02,
    "init": "he",
    "batch_size": 4,
    "gcn": True,
    "fliplr": True,
    "shift": 0.1,
    "bbox_extension_min": 1.2,
    "bbox_extension_max": 1.6,
    "workers": 1,
}


def write_persons(folder, count=10, joints=14, size=(120, 90), seed=0):
    """A CSV of persons on noise pictures of `size` = (height, width); returns its path."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    rng, lines = np.random.RandomState(seed), []
    for i in range(count):
        name = folder / f"im{i + 1:04d}.jpg"
        low = rng.randint(0, 256, (12, 9, 3)).astype(np.uint8)
        cv2.imwrite(str(name), cv2.resize(low, size[::-1]))
        lines.append(",".join([str(name), *(repr(float(v)) for v in rng.uniform(10, 80, 2 * joints))]))
    path = folder / f"persons{count}_joints.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def small_config(csv, out, **changes) -> Config:
    """Settings of a run of seconds."""
    return Config(**{**SMALL, "train_csv_fn": str(csv), "test_csv_fn": str(csv), "out": str(out), **changes}).checked()


def options_of(config) -> list[str]:
    """`small_config`'s settings as train.py's options."""
    names = "channels init batch_size bbox_extension_min bbox_extension_max shift workers train_csv_fn test_csv_fn"
    names += " max_steps test_step dropout_keep out"
    return ["--preset=none", *(f"--{n}={getattr(config, n)}" for n in names.split()), "--gcn", "--fliplr"]


def small_trainer(config):
    """Its trainer in this process."""
    from deeppose_tf.engine import TensorFlow, Trainer

    return Trainer(config, load_split(config, "train"), TensorFlow(config))


def small_run(config):
    """Train to the end; the folder."""
    return train.run(config)


def roundings(weights, layers=()) -> dict[str, float]:
    """Layer -> how many roundings in a row lead to its outputs, for `layers` in the network's order (default: those
    with weights). A kernel adds in blocks: a sum of n terms of either sign is log2 n partial sums, none of which is
    larger than what comes out. Local response normalisation: five squares, a power, a product."""
    total, found = 0.0, {}
    for name in layers or [n.removesuffix("/weight") for n in weights if n.endswith("/weight")]:
        if f"{name}/weight" in weights:
            total += np.log2(np.prod(weights[f"{name}/weight"].shape[:-1]))
        elif name.endswith("_lrn"):
            total += np.log2(5) + 4
        found[name] = total
    return found
