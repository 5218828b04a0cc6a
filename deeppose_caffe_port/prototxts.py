"""A project's prototxt files: the paper's (models/), changed for any number of joints and stages and any preset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from google.protobuf import text_format

from common.files import write_text
from common.weights.caffe_text import read_text
from deeppose_caffe_port.config import PRESETS, STAGES, Config, Stage

_MODELS = Path(__file__).resolve().parent / "models"
_HEADER = "# Written by deeppose_caffe_port/prototxts.py; edit it as you like, the workflow keeps an existing file.\n"


def network(shape: Stage, stage: int, outputs: int, joints: int, name: str):
    """NetParameter of `train_test` or `deploy`: data, hidden channels, conv1, dropout as `shape` has them."""
    net = read_text(_MODELS / STAGES[stage] / f"{name}.prototxt", "NetParameter").message

    def even(count: int) -> int:
        return max(2 * round(count * shape.channels / 2), 2)  # so that two groups divide it

    for layer in [m for m in net.layer if m.type == "Dropout" and not shape.dropout]:
        net.layer.remove(layer)
    for layer in net.layer:
        if layer.type == "Data":
            layer.data_param.label_num = outputs
            layer.data_param.batch_size = shape.batch if layer.include[0].phase == 0 else 1
        elif layer.type == "Input":
            layer.input_param.shape[0].dim[:] = [1 if stage == 1 else joints, 3, shape.side, shape.side]
        elif layer.type == "Convolution":
            layer.convolution_param.num_output = even(layer.convolution_param.num_output)
        elif layer.type == "InnerProduct":
            inner = layer.inner_product_param
            inner.num_output = outputs if layer.name == "predict" else even(inner.num_output)
        elif layer.type == "Dropout":
            layer.dropout_param.dropout_ratio = shape.dropout
        elif layer.type == "BatchNorm" and shape.fraction != 0.999 and name == "train_test":
            layer.batch_norm_param.moving_average_fraction = shape.fraction
        if layer.name == "conv1":
            layer.convolution_param.kernel_size[:] = [shape.kernel]
            layer.convolution_param.ClearField("stride")
            layer.convolution_param.stride.extend([shape.stride] if shape.stride > 1 else [])
    return net


def solver(shape: Stage, stage: int):
    """SolverParameter: the paper's with the fields of `shape.solver`; None takes one out."""
    message = read_text(_MODELS / STAGES[stage] / "solver.prototxt", "SolverParameter").message
    for name, value in shape.solver.items():
        message.ClearField(name)
        if isinstance(value, list):
            getattr(message, name).extend(value)
        elif value is not None:
            setattr(message, name, value)
    return message


def project_files(config: Config) -> dict[str, str]:
    """Path relative to the project folder -> text, for both stages; `config.preset` is one by name, not auto."""
    files, joints = {}, len(config.joints)
    for stage, folder in STAGES.items():
        shape = PRESETS[config.preset][1:][stage - 1]
        if config.channels:
            shape = replace(shape, channels=config.channels)
        made = {name: network(shape, stage, config.outputs(stage), joints, name) for name in ("train_test", "deploy")}
        if stage == 1 and config.lists == ("train",):
            shape = replace(shape, solver={**shape.solver, "test_iter": None, "test_interval": None})
        for name, message in {**made, "solver": solver(shape, stage)}.items():
            files[f"models/{folder}/{name}.prototxt"] = _HEADER + text_format.MessageToString(message)
    return files


def write_project(config: Config) -> None:
    """Write the prototxts of a project folder; a file that is there stays, with a note when it differs."""
    for name, text in project_files(config).items():
        path = config.project / name
        if not path.exists():
            write_text(path, text)
        elif path.read_text(encoding="utf-8") != text:
            print(f"kept: {path} (it differs from preset {config.preset}; remove it to have that)")
