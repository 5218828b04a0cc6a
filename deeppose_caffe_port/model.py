"""A Caffe net as `torch.nn.Module`, built from its prototxt: phases and rules, weights in and out by layer name."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import DataError
from common.runs.converting import check_numbers
from common.runs.settings import parse_yaml
from common.weights.caffe import array_blob, read_caffemodel, upgrade_net, write_message
from common.weights.caffe_messages import messages
from common.weights.caffe_text import TextFile, read_text
from deeppose_caffe_port import losses
from deeppose_caffe_port.data import Fed
from deeppose_caffe_port.layers import LARGEST, LAYERS, BatchNorm, Context, Layer, Scale
from deeppose_caffe_port.layers_plain import ReLU
from deeppose_caffe_port.random_stream import CaffeRandom
from deeppose_caffe_port.sources import Source

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
        self.loss_weights: dict[str, float] = {}
        level, states = max(level, proto.state.level), {*stages, *proto.state.stage}
        self.train(phase == TRAIN)
        extra = len(proto.layer) - len(text.message.layer) - len(text.message.layers)  # made of `input`
        for i, param in enumerate(proto.layer):
            where = text.where("layers" if text.message.layers else "layer", i - extra)
            if _kept(param, phase, level, states):
                self._add(param, where)
        read = Counter(b for m in self.order for b in m.param.bottom)
        # blobs that a caller gives; those of data layers come from `sources`
        self.inputs = [t for m in self.order if isinstance(m, Fed) and not m.source for t in m.param.top]
        made = {top: i for i, m in enumerate(self.order) for top in m.param.top}
        read_by = {bottom: i for i, m in enumerate(self.order) for bottom in m.param.bottom}
        self.outputs = [t for t in sorted(made, key=made.__getitem__) if read_by.get(t, -1) <= made[t]]
        self.steps = [_Step(m, tuple(m.param.bottom), tuple(m.param.top), None) for m in self.order]
        self.fused = self._fuse(read)

    @classmethod
    def from_file(cls, path: str | Path, phase: int = TEST, folder: str | Path = ".", **options) -> CaffeNet:
        """The net of a prototxt file."""
        return cls(read_text(path, "NetParameter"), phase, folder, **options)

    def _add(self, param, where: str) -> None:
        where, key = f"{where}: layer {param.name}", param.name.replace(".", "_")
        key += "_" * (not key or hasattr(nn.ModuleDict, key))  # a name that modules keep for themselves
        while key in self.layers:  # Caffe allows it, as long as no two of them have weights
            key += "_"
        is_loss = param.type.endswith("Loss")
        if not param.top and is_loss:
            param.top.append("(automatic)")
        kind = LAYERS.get(param.type)
        if kind is None:
            known = parse_yaml("forks.yaml", Path(__file__).with_name("forks.yaml").read_text())
            origin = next((f" ({fork})" for fork, kinds in known.items() if param.type in kinds.split()), "")
            raise DataError(f"{where} has type {param.type!r}{origin}; known: {', '.join(sorted(LAYERS))}")
        missing = [b for b in param.bottom if b not in self.shapes]
        if missing:
            raise DataError(f"{where} reads the blob {missing[0]!r}, which no layer before it makes")
        context = replace(self.context, train=param.phase == TRAIN) if param.HasField("phase") else self.context
        module = kind(param, [self.shapes[b] for b in param.bottom], context, where)
        module.train(context.train)
        self.layers[key] = module
        self.order.append(module)
        weights = list(param.loss_weight) or [float(is_loss)] * len(param.top)
        if not len(module.top_shapes) == len(param.top) == len(weights):
            found = f"{len(param.top)}, and {len(weights)} values of loss_weight"
            raise DataError(f"{where} ({param.type}) makes {len(module.top_shapes)} tops, not {found}")
        if param.blobs:
            raise module.error("has blobs in the text; give weights as .caffemodel")
        for top, shape, weight in zip(param.top, module.top_shapes, weights):
            if prod(shape) > LARGEST:
                raise module.error(f"makes {shape}, more values than any known network")
            if top in self.shapes and top not in param.bottom:
                raise DataError(f"{where} makes the blob {top!r}, which another layer has made")
            self.shapes[top] = tuple(shape)
            if weight:
                self.loss_weights[top] = weight
        self._share(module)

    def _share(self, module: Layer) -> None:
        """Weights with the same ParamSpec name are one."""
        for i, name in enumerate(module.blob_names):
            if shared := module.spec(i).name:
                owner = self._shared.setdefault(shared, getattr(module, name))
                if owner.shape != getattr(module, name).shape:
                    raise module.error(f"shares {shared!r} of another shape, {tuple(owner.shape)}")
                setattr(module, name, owner)

    def _fuse(self, read: Counter) -> list[_Step]:
        """Steps in which BatchNorm takes its Scale along, and ReLU overwrites what only it reads."""
        steps: list[_Step] = []
        for step in self.steps:
            before, layer = steps[-1] if steps else None, step.layer
            if before is not None and before.tops == step.bottoms:
                in_place = step.bottoms == step.tops or read[step.bottoms[0]] == 1
                simple = isinstance(layer, Scale) and layer.is_scale and layer.per_channel and all(layer.down)
                if in_place and simple and isinstance(before.layer, BatchNorm) and before.scale is None:
                    steps[-1] = before._replace(tops=step.tops, scale=layer)
                    continue
                if in_place and isinstance(layer, ReLU):
                    layer.inplace = before.layer.kind in ("BatchNorm", "Convolution", "InnerProduct")
            steps.append(step)
        return steps

    def forward(self, feeds: Feeds | None = None, capture: dict | None = None) -> tuple[dict, Tensor | None]:
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
        if isinstance(module, Fed):
            missing = [top for top in step.tops if top not in feeds]
            if missing:
                what = f"no input given for the blob {missing[0]!r}; nets are trained on data layers"
                raise DataError(f"{self.file}: {what}")
            return module(*(feeds[top] for top in step.tops))
        bottoms = [blobs[b] if down else blobs[b].detach() for b, down in zip(step.bottoms, module.down)]
        if keep and getattr(module, "inplace", False):
            bottoms = [bottoms[0].clone()]
        out = module(*bottoms) if step.scale is None else module(*bottoms, scale=step.scale)
        return (out,) if isinstance(out, Tensor) else out

    def sources(self) -> dict[tuple[str, ...], Source]:
        """What each data layer reads, by the layer's tops."""
        return {tuple(m.param.top): m.source for m in self.order if isinstance(m, Fed) and m.source}

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
            for name in module.blob_names if source else ():
                mine, theirs = getattr(module, name), getattr(source, name, None)
                if theirs is None or mine.shape != theirs.shape:
                    found = None if theirs is None else tuple(theirs.shape)
                    raise module.error(f"cannot share its {name} {tuple(mine.shape)} with {found} of {other.file}")
                setattr(module, name, theirs)

    @torch.no_grad()
    def load_blobs(self, weights: Mapping[str, Sequence[np.ndarray]], source: str = "weights") -> list[str]:
        """Copy weights by layer name; returns the names of layers that `source` does not have (they keep theirs). Shapes
        may differ by leading ones (legacy). DataError for others; nothing is changed then."""
        planned, own = [], [m for m in self.order if m.blob_names]
        for module in own:
            if module.param.name not in weights:
                continue
            found, where = weights[module.param.name], f"{source}: layer {module.param.name}"
            if len(found) != len(module.blob_names):
                raise DataError(f"{where} has {len(found)} blobs, {self.file} needs {len(module.blob_names)}")
            for i, (array, target) in enumerate(zip(found, module.blobs)):
                if _bare(array.shape) != _bare(target.shape):
                    wanted = f"{tuple(target.shape)} expected by {self.file}"
                    remedy = "give the prototxt that the weights were trained with"
                    raise DataError(f"{where}, blob {i}: shape {array.shape} found, {wanted}; {remedy}")
                check_numbers({f"layer {module.param.name}, blob {i}": array}, source)
                planned.append((target, array))
        for target, array in planned:
            target.copy_(torch.from_numpy(np.ascontiguousarray(array, np.float32)).reshape(target.shape))
        return [m.param.name for m in own if m.param.name not in weights]

    def load(self, path: str | Path) -> list[str]:
        """Weights of a `.caffemodel`; see `load_blobs`."""
        return self.load_blobs(read_caffemodel(path), str(path))

    def to_proto(self):
        """The net with its weights as NetParameter, as Caffe's snapshots hold it."""
        net = messages()["NetParameter"](name=self.name)
        for module in self.order:
            entry = net.layer.add()
            entry.CopyFrom(module.param)
            entry.phase = self.phase if not module.param.HasField("phase") else module.param.phase
            weights = [self.loss_weights.get(top, 0.0) for top in module.param.top]
            entry.loss_weight[:] = weights if any(weights) else []
            entry.blobs.extend(array_blob(t.detach().cpu().contiguous().numpy()) for t in module.blobs)
        return net

    def save(self, path: str | Path) -> None:
        """Write a `.caffemodel`, atomically."""
        write_message(path, self.to_proto())

    def fingerprint(self) -> str:
        """What a checkpoint compares to know that it belongs to this net: its layers and the shapes of their blobs."""
        layers = [(m.param.name, m.kind, [tuple(b.shape) for b in m.blobs]) for m in self.order]
        return hashlib.sha256(repr(layers).encode()).hexdigest()


def _kept(param, phase: int, level: int, stages: set[str]) -> bool:
    """Whether the rules of a layer let it into a net of this state."""

    def meets(rule) -> bool:
        low = rule.min_level if rule.HasField("min_level") else level
        high = rule.max_level if rule.HasField("max_level") else level
        asked, barred = set(rule.stage), set(rule.not_stage)
        in_phase = not rule.HasField("phase") or rule.phase == phase
        return in_phase and low <= level <= high and asked <= stages and not barred & stages

    if param.include and param.exclude:
        raise DataError(f"layer {param.name} has include and exclude rules; Caffe takes one kind")
    return any(map(meets, param.include)) if param.include else not any(map(meets, param.exclude))


def _bare(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without leading ones."""
    first = next((i for i, n in enumerate(shape) if n != 1), len(shape))
    return tuple(shape[first:])
