"""Writes the project's prototxt files: train_test, deploy and solver of both stages, for any number of joints and any preset.

With the preset `paper` and K2HPD these are the files in models/.
"""

from __future__ import annotations

from pathlib import Path

from common.files import atomic_write
from deeppose_caffe_port.config import PRESETS, Config, Net, Training, stage_name

_PARAMS = "  param {\n    lr_mult: 1\n    decay_mult: 1\n  }\n  param {\n    lr_mult: 2\n    decay_mult: 0\n  }\n"
_FILLERS = '    weight_filler {\n      type: "xavier"\n    }\n    bias_filler {\n      type: "constant"\n    }\n'
# name, output channels, kernel, pad, groups of the convolutions behind the first
_CONVOLUTIONS = (("conv2", 256, 5, 2, 2), ("conv3", 384, 3, 1, 1), ("conv4", 384, 3, 1, 2), ("conv5", 256, 3, 1, 2))
_HEADER = "# Written by deeppose_caffe_port/prototxts.py; edit it as you like, the workflow keeps an existing file.\n"


def _layer(name: str, kind: str, bottom: str, top: str, body: str = "") -> str:
    tops = "".join(f'  top: "{t}"\n' for t in top.split())
    bottoms = "".join(f'  bottom: "{b}"\n' for b in bottom.split())
    return f'layer {{\n  name: "{name}"\n  type: "{kind}"\n{bottoms}{tops}{body}}}\n'


def _net_name(stage: int) -> str:
    return "DeepPose" if stage == 1 else f"DeepPoseRefine{stage if stage > 2 else ''}"


def _channels(count: int, width: float) -> int:
    """Even, so that two groups divide it."""
    return max(2 * round(count * width / 2), 2)


def _convolution(name: str, bottom: str, out: int, kernel: int, pad: int = 0, group: int = 1, stride: int = 1) -> str:
    fields = {"num_output": out, "pad": pad or None, "kernel_size": kernel, "stride": stride if stride > 1 else None}
    fields["group"] = group if group > 1 else None
    text = "".join(f"    {key}: {value}\n" for key, value in fields.items() if value is not None)
    return _layer(name, "Convolution", bottom, name, f"{_PARAMS}  convolution_param {{\n{text}{_FILLERS}  }}\n")


def _normalised(number: int, net: Net, deploy: bool) -> str:
    """BatchNorm, Scale, ReLU in place behind conv1 or conv2, then LRN and pooling."""
    blob, n = f"conv{number}", number
    frozen = "  param {\n    lr_mult: 0\n  }\n" * 3
    fields = ["use_global_stats: true"] * deploy + [f"moving_average_fraction: {net.fraction:g}"] * (
        net.fraction != 0.999 and not deploy
    )
    stats = f"  batch_norm_param {{\n    {fields[0]}\n  }}\n" if fields else ""
    lrn = "  lrn_param {\n    local_size: 5\n    alpha: 0.0001\n    beta: 0.75\n  }\n"
    return (
        _layer(f"bn{n}", "BatchNorm", blob, blob, frozen + stats)
        + _layer(f"scale{n}", "Scale", blob, blob, "  scale_param {\n    bias_term: true\n  }\n")
        + _layer(f"relu{n}", "ReLU", blob, blob)
        + _layer(f"norm{n}", "LRN", blob, f"norm{n}", lrn)
        + _pool(f"pool{n}", f"norm{n}")
    )


def _pool(name: str, bottom: str) -> str:
    return _layer(
        name, "Pooling", bottom, name, "  pooling_param {\n    pool: MAX\n    kernel_size: 3\n    stride: 2\n  }\n"
    )


def _dense(name: str, bottom: str, out: int) -> str:
    return _layer(
        name,
        "InnerProduct",
        bottom,
        name,
        f"{_PARAMS}  inner_product_param {{\n    num_output: {out}\n{_FILLERS}  }}\n",
    )


def body(net: Net, outputs: int, deploy: bool) -> str:
    """All layers from conv1 to predict."""
    text = _convolution("conv1", "data", _channels(96, net.width), net.kernel, stride=net.stride) + _normalised(
        1, net, deploy
    )
    bottom = "pool1"
    for name, out, kernel, pad, group in _CONVOLUTIONS:
        text += _convolution(name, bottom, _channels(out, net.width), kernel, pad, group)
        if name == "conv2":
            text, bottom = text + _normalised(2, net, deploy), "pool2"
        else:
            text, bottom = text + _layer(f"relu{name[-1]}", "ReLU", name, name), name
    text, bottom = text + _pool("pool5", bottom), "pool5"
    for number, out in ((6, 4096), (7, 1024)):
        text += _dense(f"fc{number}", bottom, _channels(out, net.width)) + _layer(
            f"relu{number}", "ReLU", f"fc{number}", f"fc{number}"
        )
        if net.dropout:
            text += _layer(
                f"drop{number}",
                "Dropout",
                f"fc{number}",
                f"fc{number}",
                f"  dropout_param {{\n    dropout_ratio: {net.dropout:g}\n  }}\n",
            )
        bottom = f"fc{number}"
    return text + _dense("predict", bottom, outputs)


def train_test(net: Net, training: Training, stage: int, outputs: int) -> str:
    """Data layers of both phases (paths relative to the project folder), the network, the loss."""
    model, text = f"models/{stage_name(stage)}", f'{_HEADER}name: "{_net_name(stage)}"\n'
    for phase, kind, batch in (("TRAIN", "train", training.batch), ("TEST", "test", 1)):
        data = (
            f"  include {{\n    phase: {phase}\n  }}\n"
            f'  transform_param {{\n    mean_file: "{model}/train_mean.binaryproto"\n    scale: 0.00390625\n  }}\n'
            f'  data_param {{\n    source: "{model}/{kind}_data_lmdb"\n    batch_size: {batch}\n    backend: LMDB\n    label_num: {outputs}\n  }}\n'
        )
        text += _layer("data", "Data", "", "data label", data)
    return text + body(net, outputs, deploy=False) + _layer("loss", "EuclideanLoss", "predict label", "loss")


def deploy(net: Net, stage: int, outputs: int, joints: int) -> str:
    """The network for prediction: one picture, or one patch for each joint."""
    dims = "".join(f"      dim: {n}\n" for n in (1 if stage == 1 else joints, 3, net.side, net.side))
    text = _layer("data", "Input", "", "data", f"  input_param {{\n    shape {{\n{dims}    }}\n  }}\n")
    return f'{_HEADER}name: "{_net_name(stage)}"\n' + text + body(net, outputs, deploy=True)


def solver(training: Training, stage: int) -> str:
    """The solver file."""
    model = f"models/{stage_name(stage)}"
    lines = [
        f'net: "{model}/train_test.prototxt"', f"test_iter: {training.test_iter}", f"test_interval: {training.test_interval}",
        f"base_lr: {training.base_lr:g}", training.policy, f"display: {training.display}", f"max_iter: {training.max_iter}",
        *([f'type: "{training.kind}"'] if training.kind != "SGD" else []), "momentum: 0.9", f"weight_decay: {training.weight_decay:g}",
        *([f"random_seed: {training.seed}"] if training.seed is not None else []), f"snapshot: {training.snapshot}",
        f'snapshot_prefix: "{model}/snapshot/{stage_name(stage)}"', "solver_mode: GPU",
    ]  # fmt: skip
    return _HEADER + "\n".join(lines) + "\n"


def project_files(config: Config) -> dict[str, str]:
    """Path relative to the project folder -> text, for all stages of the settings; `config.preset` is one by name, not auto."""
    files, joints = {}, len(config.skeleton)
    for stage in range(1, config.stages + 1):
        net, training = PRESETS[config.preset][min(stage, 2) - 1]
        outputs, folder = config.outputs(stage), f"models/{stage_name(stage)}"
        files[f"{folder}/train_test.prototxt"] = train_test(net, training, stage, outputs)
        files[f"{folder}/deploy.prototxt"] = deploy(net, stage, outputs, joints)
        files[f"{folder}/solver.prototxt"] = solver(training, stage)
    return files


def write_project(config: Config) -> None:
    """The prototxts of a project folder; a file that is there already stays, with a note when it differs from the preset's."""
    for name, text in project_files(config).items():
        path = Path(config.project) / name
        if not path.exists():
            atomic_write(path, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))
        elif path.read_text(encoding="utf-8") != text:
            print(f"kept: {path} (it differs from preset {config.preset}; remove it to have that)")
