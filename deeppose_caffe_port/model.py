"""A Caffe net as `torch.nn.Module`, built from its prototxt: phases and rules, weights in and out by layer name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import DataError
from common.weights.caffe import array_blob, read_caffemodel, write_net
from common.weights.caffe_messages import messages
from common.weights.caffe_text import TextFile, read_text
from common.weights.caffe_upgrade import upgrade_net
from deeppose_caffe_port import data, layers_norm, layers_plain, losses
from deeppose_caffe_port.layers import LAYERS, Context, Layer, Scale, Source
from deeppose_caffe_port.random_stream import CaffeRandom

assert losses  # imported, as the others, for the layers that they register
TRAIN, TEST = 0, 1
Feeds = Mapping[str, Tensor]


class Blob(NamedTuple):
    """One weight of a net with the multipliers of its ParamSpec."""

    layer: str
    number: int
    tensor: Tensor
    lr_mult: float
    decay_mult: float


class _Step(NamedTuple):
    layer: Layer
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    scale: Scale | None  # a Scale that the BatchNorm computes along


def meets(rule, phase: int, level: int, stages: Sequence[str]) -> bool:
    """Whether a NetStateRule matches the state of a net."""
    if rule.HasField("phase") and rule.phase != phase:
        return False
    low = rule.min_level if rule.HasField("min_level") else level
    high = rule.max_level if rule.HasField("max_level") else level
    if not low <= level <= high:
        return False
    return set(rule.stage) <= set(stages) and not set(rule.not_stage) & set(stages)


class CaffeNet(nn.Module):
    """The layers of a prototxt that belong to one phase, in file order.

    `forward(feeds)` takes {blob: tensor} for its Input and Data layers (raw pixels for Data) and returns ({output blob:
    tensor}, loss or None). Parameter names are LAYER.weight, LAYER.bias; BatchNorm's statistics are buffers. DataError
    naming file and line for a layer of unknown type, a bottom that nobody makes, or shapes that do not fit.
    """

    def __init__(self, text: TextFile, phase: int, folder: str | Path = ".", *, random: CaffeRandom | None = None,
                 level: int = 0, stages: Sequence[str] = (), **options):  # fmt: skip
        """`folder`: where relative file names start; `options`: other fields of layers.Context."""
        super().__init__()
        self.file, self.phase = text.name, phase
        proto = upgrade_net(text.message, text.name)
        self.name = proto.name
        self.context = Context(train=phase == TRAIN, random=random or CaffeRandom(), folder=Path(folder), **options)
        self.layers = nn.ModuleDict()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.order: list[Layer] = []
        self._shared: dict[str, Tensor] = {}
        for param, where in _placed(proto, text):
            if _kept(param, phase, level, stages):
                self._add(param, where)
        self.outputs = self._find_outputs()
        self.steps = [_Step(m, tuple(m.param.bottom), tuple(m.param.top), None) for m in self.order]
        self.fused = self._fuse()
        self.loss_weights = self._loss_weights()
        self.train(phase == TRAIN)

    @classmethod
    def from_file(cls, path: str | Path, phase: int = TEST, folder: str | Path = ".", **options) -> CaffeNet:
        """The net of a prototxt file."""
        return cls(read_text(path, "NetParameter"), phase, folder, **options)

    def _add(self, param, where: str) -> None:
        where, key = f"{where}: layer {param.name}", param.name.replace(".", "_")
        key += "_" * (not key or hasattr(nn.ModuleDict, key))  # a name that modules keep for themselves
        if not param.top and param.type.endswith("Loss"):
            param.top.append("(automatic)")
        kind = LAYERS.get(param.type)
        if kind is None:
            raise DataError(f"{where} has type {param.type!r}; known: {', '.join(sorted(LAYERS))}")
        missing = [b for b in param.bottom if b not in self.shapes]
        if missing:
            raise DataError(f"{where} reads the blob {missing[0]!r}, which no layer before it makes")
        if key in self.layers:
            raise DataError(f"{where}: the name occurs twice in one phase")
        module = kind(param, [self.shapes[b] for b in param.bottom], self.context, where)
        self.layers[key] = module
        self.order.append(module)
        if len(module.top_shapes) != len(param.top):
            raise DataError(f"{where} ({param.type}) makes {len(module.top_shapes)} tops, not {len(param.top)}")
        for top, shape in zip(param.top, module.top_shapes):
            if top in self.shapes and top not in param.bottom:
                raise DataError(f"{where} makes the blob {top!r}, which another layer has made")
            self.shapes[top] = tuple(shape)
        self._share(module)

    def _share(self, module: Layer) -> None:
        """Weights with the same ParamSpec name are one."""
        for i, name in enumerate(module.blob_names):
            if shared := module.spec(i).name:
                owner = self._shared.setdefault(shared, getattr(module, name))
                if owner.shape != getattr(module, name).shape:
                    raise module.error(f"shares {shared!r} of another shape, {tuple(owner.shape)}")
                setattr(module, name, owner)

    def _find_outputs(self) -> list[str]:
        unread: dict[str, None] = {}
        for module in self.order:
            for bottom in module.param.bottom:
                unread.pop(bottom, None)
            unread.update(dict.fromkeys(module.param.top))
        return list(unread)

    def _fuse(self) -> list[_Step]:
        """Steps in which BatchNorm takes its Scale along, and ReLU overwrites what only it reads."""
        steps: list[_Step] = []
        readers = [b for m in self.order for b in m.param.bottom]
        for step in self.steps:
            before, layer = steps[-1] if steps else None, step.layer
            if before is not None and before.tops == step.bottoms:
                in_place = step.bottoms == step.tops or readers.count(step.bottoms[0]) == 1
                simple = isinstance(layer, Scale) and layer.is_scale and layer.per_channel and all(layer.down)
                if in_place and simple and isinstance(before.layer, layers_norm.BatchNorm) and before.scale is None:
                    steps[-1] = before._replace(tops=step.tops, scale=layer)
                    continue
                if in_place and isinstance(layer, layers_plain.ReLU):
                    layer.inplace = before.layer.param.type in ("BatchNorm", "Convolution", "InnerProduct")
            steps.append(step)
        return steps

    def _loss_weights(self) -> dict[str, float]:
        weights = {}
        for module in self.order:
            given, is_loss = list(module.param.loss_weight), module.param.type.endswith("Loss")
            given = given or ([1.0] if is_loss else [])
            weights.update({top: w for top, w in zip(module.param.top, given) if w})
        return weights

    def forward(
        self, feeds: Feeds | None = None, capture: dict[str, Tensor] | None = None
    ) -> tuple[dict, Tensor | None]:
        """Outputs and the weighted sum of losses. `capture` receives `LAYER/TOP` of every layer."""
        feeds, losses, blobs = feeds or {}, [], dict[str, Tensor]()
        for step in self.fused if capture is None else self.steps:
            tops = self._run(step, blobs, feeds, keep=capture is not None)
            for name, value in zip(step.tops, tops):
                blobs[name] = value
                if capture is not None:
                    capture[f"{step.layer.param.name}/{name}"] = value
                if name in self.loss_weights:
                    losses.append(self.loss_weights[name] * value.sum())
        return {name: blobs[name] for name in self.outputs}, sum(losses) if losses else None

    def _run(self, step: _Step, blobs: dict[str, Tensor], feeds: Feeds, keep: bool) -> Sequence[Tensor]:
        module = step.layer
        if isinstance(module, (Source, data.Data)) and module.param.type != "DummyData":
            missing = [top for top in step.tops if top not in feeds]
            if missing:
                raise ValueError(f"net {self.name}: no input given for the blob {missing[0]!r}")
            return module(*(feeds[top] for top in step.tops))
        bottoms = [blobs[b] if down else blobs[b].detach() for b, down in zip(step.bottoms, module.down)]
        if keep and getattr(module, "inplace", False):
            bottoms = [bottoms[0].clone()]
        out = module(*bottoms) if step.scale is None else module(*bottoms, scale=step.scale)
        return (out,) if isinstance(out, Tensor) else out

    def sources(self) -> dict[tuple[str, ...], data.LmdbSource]:
        """The LMDB behind each Data layer, by the layer's tops."""
        return {tuple(m.param.top): m.source for m in self.order if isinstance(m, data.Data)}

    def blobs(self) -> Iterator[Blob]:
        """Every weight once, in Caffe's order: by layer, then as the layer has them, BatchNorm's statistics too."""
        seen = set()
        for module in self.order:
            for i, tensor in enumerate(module.blobs):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    spec = module.spec(i)
                    yield Blob(module.param.name, i, tensor, spec.lr_mult, spec.decay_mult)

    def share_with(self, other: CaffeNet) -> None:
        """Take the weights of `other` by layer name, as a test net does. DataError where shapes differ."""
        sources = {m.param.name: m for m in other.order if m.blob_names}
        for module in self.order:
            source = sources.get(module.param.name)
            if source is None or not module.blob_names:
                continue
            for name in module.blob_names:
                mine, theirs = getattr(module, name), getattr(source, name, None)
                if theirs is None or mine.shape != theirs.shape:
                    found = None if theirs is None else tuple(theirs.shape)
                    raise module.error(f"cannot share its {name} {tuple(mine.shape)} with {found} of {other.file}")
                setattr(module, name, theirs)

    @torch.no_grad()
    def load_blobs(self, weights: Mapping[str, Sequence[np.ndarray]], source: str = "weights") -> list[str]:
        """Copy weights by layer name; returns the names of layers with weights that `source` does not have (they keep
        theirs).

        Layers that the net does not have are skipped. Legacy shapes count as equal when they differ by leading ones.
        DataError naming the layer, the shape expected and the one found; nothing is changed then.
        """
        planned, untouched = [], []
        for module in self.order:
            if not module.blob_names:
                continue
            if module.param.name not in weights:
                untouched.append(module.param.name)
                continue
            found, where = weights[module.param.name], f"{source}: layer {module.param.name}"
            if len(found) != len(module.blob_names):
                raise DataError(f"{where} has {len(found)} blobs, {self.file} needs {len(module.blob_names)}")
            for i, (array, target) in enumerate(zip(found, module.blobs)):
                if not _same_shape(array.shape, tuple(target.shape)):
                    wanted = f"{tuple(target.shape)} expected by {self.file}"
                    remedy = "give the prototxt that the weights were trained with"
                    raise DataError(f"{where}, blob {i}: shape {array.shape} found, {wanted}; {remedy}")
                planned.append((target, array))
        for target, array in planned:
            target.copy_(torch.from_numpy(np.ascontiguousarray(array, np.float32)).reshape(target.shape))
        return untouched

    def load(self, path: str | Path) -> list[str]:
        """Weights of a `.caffemodel`; see `load_blobs`."""
        return self.load_blobs(read_caffemodel(path), str(path))

    def to_proto(self):
        """The net with its weights as NetParameter, as Caffe's snapshots hold it."""
        net = messages()["NetParameter"](name=self.name)
        for module in self.order:
            entry = net.layer.add()
            entry.CopyFrom(module.param)
            entry.phase = self.phase
            weights = [self.loss_weights.get(top, 0.0) for top in module.param.top]
            if any(weights):
                entry.ClearField("loss_weight")
                entry.loss_weight.extend(weights)
            entry.ClearField("blobs")
            entry.blobs.extend(array_blob(t.detach().cpu().contiguous().numpy()) for t in module.blobs)
        return net

    def save(self, path: str | Path) -> None:
        """Write a `.caffemodel`, atomically."""
        write_net(path, self.to_proto())

    def fingerprint(self) -> str:
        """SHA-256 over the layers' parameters: what a checkpoint compares to know that it belongs to this net."""
        digest = hashlib.sha256()
        for module in self.order:
            bare = type(module.param)()
            bare.CopyFrom(module.param)
            for field in ("blobs", "data_param", "transform_param", "include", "exclude", "phase"):
                bare.ClearField(field)
            digest.update(bare.SerializeToString(deterministic=True))
        return digest.hexdigest()


def _placed(proto, text: TextFile) -> Iterator[tuple]:
    """Layers of the upgraded net, each with the file and line that it was written in."""
    extra = len(proto.layer) - len(text.message.layer) - len(text.message.layers)
    field = "layers" if text.message.layers else "layer"
    for i, param in enumerate(proto.layer):
        yield param, text.where(field, i - extra)


def _kept(param, phase: int, level: int, stages: Sequence[str]) -> bool:
    if param.include and param.exclude:
        raise DataError(f"layer {param.name} has include and exclude rules; Caffe takes one kind")
    if param.include:
        return any(meets(rule, phase, level, stages) for rule in param.include)
    return not any(meets(rule, phase, level, stages) for rule in param.exclude)


def _same_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    if found == expected:
        return True
    short = max(len(found), len(expected))
    return (1,) * (short - len(found)) + tuple(found) == (1,) * (short - len(expected)) + tuple(expected)
