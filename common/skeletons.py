"""Skeletons by joint name (`skeletons.yaml`). Flip pairs, limbs and groups are derived from the names."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml

from common.errors import DataError

with open(Path(__file__).with_name("skeletons.yaml"), encoding="utf-8") as _file:
    _DATA = yaml.safe_load(_file)


def mirror_name(name: str) -> str:
    """The name of the same joint on the other side; a central joint is its own mirror image."""
    for side, other in (("left_", "right_"), ("right_", "left_")):
        if name.startswith(side):
            return other + name[len(side) :]
    return name


def group_name(name: str) -> str:
    """The name without its side: `left_knee` -> `knee`."""
    return name.removeprefix("left_").removeprefix("right_")


@dataclass(frozen=True)
class Skeleton:
    """An ordered set of joint names with everything that follows from them.

    `limbs`: bones as index pairs, for drawing; derived from the names where none are given. No part of its identity.
    """

    name: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if len(set(self.joints)) != len(self.joints):
            raise ValueError(f"skeleton {self.name}: a joint name occurs twice")
        missing = [j for j in self.joints if mirror_name(j) not in self.joints]
        if missing:
            raise ValueError(f"skeleton {self.name}: {missing[0]} has no counterpart on the other side")
        bad = [limb for limb in self.limbs if len(set(limb)) != 2 or not all(0 <= i < len(self.joints) for i in limb)]
        if bad:
            raise ValueError(f"skeleton {self.name}: limb {bad[0]} does not join two of its {len(self.joints)} joints")
        object.__setattr__(self, "limbs", self.limbs or _derived_limbs(self.joints))

    def __len__(self) -> int:
        return len(self.joints)

    def index(self, joint: str) -> int:
        """Position of a joint name; ValueError naming the skeleton when it has no such joint."""
        try:
            return self.joints.index(joint)
        except ValueError:
            raise ValueError(f"skeleton {self.name} has no joint {joint!r}; it has {', '.join(self.joints)}") from None

    def indices(self, names) -> list[int]:
        """Positions of several joint names."""
        return [self.index(n) for n in names]

    @cached_property
    def mirror(self) -> np.ndarray:
        """(J,) permutation: `joints[:, mirror]` exchanges left and right."""
        return np.array([self.joints.index(mirror_name(j)) for j in self.joints])

    @cached_property
    def flip_pairs(self) -> list[tuple[int, int]]:
        """Pairs of indices that a mirrored image exchanges, each once, in ascending order of the first."""
        return [(i, int(m)) for i, m in enumerate(self.mirror) if i < m]

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """Group name (`knee`) -> indices of its joints, in skeleton order."""
        found: dict[str, list[int]] = {}
        for i, joint in enumerate(self.joints):
            found.setdefault(group_name(joint), []).append(i)
        return found


def _derived_limbs(joints: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """The limb chains, the trunk and the head, joined through whichever joints exist."""
    head, necks, middles = ([j for j in _DATA[part].split() if j in joints] for part in ("heads", "necks", "middles"))
    trunk = head[:1] + necks + middles
    pairs = {part: [j for j in (f"right_{part}", f"left_{part}") if j in joints] for part in ("shoulder", "hip", "eye")}
    chains = [[f"{side}_{j}" for j in chain.split()] for side in ("right", "left") for chain in _DATA["side_chains"]]
    chains = [*([j for j in chain if j in joints] for chain in chains), trunk]
    for part, anchors in (("shoulder", necks[-1:]), ("hip", middles[-1:])):
        chains += [[*anchors, joint] for joint in pairs[part]] if anchors else [pairs[part]]
    if not middles:
        chains += [list(side) for side in zip(pairs["shoulder"], pairs["hip"])]
    if "nose" in joints:
        chains += [["nose", eye] for eye in pairs["eye"]]
    bones = dict.fromkeys(bone for chain in chains for bone in zip(chain, chain[1:]))
    return tuple((joints.index(a), joints.index(b)) for a, b in bones)


SKELETONS = {name: Skeleton(name, tuple(joints.split())) for name, joints in _DATA["skeletons"].items()}
LSP14, MPII16, MPII14, LPM14, CPM14, COCO17, CROWDPOSE14, PENN13, JHMDB15, AIC14, K2HPD15 = SKELETONS.values()
OPENPOSE25, MEDIAPIPE33 = (Skeleton(name, tuple(joints.split())) for name, joints in _DATA["foreign"].items())


@dataclass(frozen=True)
class SkeletonMap:
    """How each joint of `target` comes out of `source`: `sources[i]` are source indices to average.

    `synthetic[i]` is True where the joint is not the same joint but a stand-in (a midpoint, a neighbouring definition).
    """

    source: Skeleton
    target: Skeleton
    sources: tuple[tuple[int, ...], ...]
    synthetic: np.ndarray

    def apply(self, joints: np.ndarray, visible: np.ndarray | None = None):
        """Map (..., J_source, 2) joints to (..., J_target, 2); with `visible` (..., J_source) returns both.

        A stand-in is as visible as its least visible source; a joint without source is NaN and 0.
        """
        shape = joints.shape[:-2] + (len(self.target), 2)
        mapped = np.full(shape, np.nan)
        seen = np.zeros(shape[:-1], np.int8)
        for i, index in enumerate(self.sources):
            if index:
                mapped[..., i, :] = joints[..., list(index), :].mean(-2)
                if visible is not None:
                    seen[..., i] = visible[..., list(index)].min(-1)
        return mapped if visible is None else (mapped, seen)


def skeleton_map(source: Skeleton, target: Skeleton) -> SkeletonMap:
    """The map from one skeleton to another by joint names, with stand-ins where they make sense."""
    sources: list[tuple[int, ...]] = []
    for joint in target.joints:
        stand_ins = (names.split() for names in _DATA["substitutes"].get(joint, ()))
        options = [o for o in ([joint], *stand_ins) if set(o) <= set(source.joints)]
        sources.append(tuple(source.indices(options[0])) if options else ())
    same = np.array([joint in source.joints for joint in target.joints])
    return SkeletonMap(source, target, tuple(sources), ~same & np.array([bool(s) for s in sources]))


def joint_order(source: Skeleton, target: Skeleton, shared_joints: bool = False) -> np.ndarray:
    """(J,) for every joint of `target` the place of the same joint in `source`, by name; -1 where it has none.

    DataError naming both when their joints differ, unless `shared_joints` lets pass what they share.
    """
    order = np.array([source.joints.index(j) if j in source.joints else -1 for j in target.joints], np.int64)
    if set(source.joints) == set(target.joints) or (shared_joints and (order >= 0).any()):
        return order
    names = [f"{s.name} ({len(s)} joints)" for s in (source, target)]
    shared = int((order >= 0).sum())
    remedy = f"; --shared_joints lets the {shared} pass that they share by name" if shared and not shared_joints else ""
    raise DataError(f"the network answers skeleton {names[0]}, the data have {names[1]}{remedy}")


def card(skeleton: Skeleton) -> dict:
    """The skeleton as plain JSON for checkpoints, cards and users' own data; pairs by joint index from 0."""
    flips, limbs = ([list(pair) for pair in pairs] for pairs in (skeleton.flip_pairs, skeleton.limbs))
    return {"name": skeleton.name, "joints": list(skeleton.joints), "flip_pairs": flips, "limbs": limbs}


_CARD = "{'name': TEXT, 'joints': [TEXT, ...], 'limbs': [[JOINT, JOINT], ...] (optional)}"


def from_card(content, where: str) -> Skeleton:
    """The skeleton that `card` wrote, or a user: a known one's name, or name, joints and optional limbs (pairs of joint
    names or indices). DataError, beginning with `where` (file and field), when malformed.
    """
    if isinstance(content, str) and content in SKELETONS:
        return SKELETONS[content]
    if isinstance(content, str):
        raise DataError(f"{where}: {content!r} is not known; write {', '.join(SKELETONS)}, or {_CARD}")
    name, joints = (content.get("name"), content.get("joints")) if isinstance(content, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(joints, (list, tuple)) or not joints:
        raise DataError(f"{where} must be {_CARD}, or the name of a known one: {', '.join(SKELETONS)}")
    if not all(isinstance(j, str) and j for j in joints):
        raise DataError(f"{where}.joints holds something else than names; write {_CARD}")
    limbs, flips = (_pairs(content.get(field), joints, f"{where}.{field}") for field in ("limbs", "flip_pairs"))
    try:
        skeleton = Skeleton(name, tuple(joints), limbs)
    except ValueError as error:
        raise DataError(f"{where}: {error}; name both sides left_... and right_..., each joint once") from error
    if "flip_pairs" in content and set(map(frozenset, flips)) != set(map(frozenset, skeleton.flip_pairs)):
        raise DataError(f"{where}.flip_pairs contradicts the names left_... and right_... of the joints; leave it out")
    known = SKELETONS.get(name, skeleton)
    if known != skeleton:
        raise DataError(f"{where}: the name {name!r} is taken by a skeleton with other joints; choose another name")
    return known if known.limbs == skeleton.limbs else skeleton


def _pairs(value, joints, where: str) -> tuple[tuple[int, int], ...]:
    """Pairs of joints, each by name or index, as pairs of indices."""
    found = []
    for pair in [] if value is None else value if isinstance(value, (list, tuple)) else [value]:
        ends = pair if isinstance(pair, (list, tuple)) and len(pair) == 2 else (None, None)
        index: list = [joints.index(e) if e in joints else e for e in ends]
        if not all(type(i) is int and 0 <= i < len(joints) for i in index):
            raise DataError(f"{where} has {pair!r}; write pairs of joint names, or of their places counted from 0")
        found.append((index[0], index[1]))
    return tuple(found)
