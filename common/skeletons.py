"""Skeletons by joint name. Flip pairs, limbs and groups are derived from the names; no index list is typed here.

Left and right are the person's own. Joint order is the order of the data set's files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from common.errors import DataError

# The bones of the drawing, as chains of joints; a joint that a skeleton lacks is skipped, so its neighbours join up.
_SIDE_CHAINS = [
    chain.split()
    for chain in ("shoulder elbow wrist", "shoulder elbow hand", "hip knee ankle", "hip knee foot", "eye ear")
]
_HEADS = ("head_top", "head", "face", "nose")
_NECKS = ("upper_neck", "neck", "thorax")
_MIDDLES = ("belly", "spine", "pelvis")


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
    have = set(joints)
    bones: list[tuple[str, str]] = []
    for side in ("right_", "left_"):
        for chain in _SIDE_CHAINS:
            present = [side + part for part in chain if side + part in have]
            bones += [b for b in zip(present, present[1:]) if b not in bones]
    head = [j for j in _HEADS if j in have][:1]
    necks = [j for j in _NECKS if j in have]
    middles = [j for j in _MIDDLES if j in have]
    trunk = head + necks + middles
    bones += list(zip(trunk, trunk[1:]))
    for part, anchors in (("shoulder", necks[-1:]), ("hip", middles[-1:])):
        pair = [s + part for s in ("right_", "left_") if s + part in have]
        bones += [(a, p) for a in anchors for p in pair] or list(zip(pair, pair[1:]))
    if not middles:
        bones += [(s + "shoulder", s + "hip") for s in ("right_", "left_") if {s + "shoulder", s + "hip"} <= have]
    if "nose" in have:
        bones += [("nose", s + "eye") for s in ("right_", "left_") if s + "eye" in have]
    return tuple((joints.index(a), joints.index(b)) for a, b in bones)


def _make(name: str, joints: str) -> Skeleton:
    return Skeleton(name, tuple(joints.split()))


_LEGS = "right_ankle right_knee right_hip left_hip left_knee left_ankle"
_ARMS = "right_wrist right_elbow right_shoulder left_shoulder left_elbow left_wrist"

LSP14 = _make("lsp14", f"{_LEGS} {_ARMS} neck head_top")
MPII16 = _make("mpii16", f"{_LEGS} pelvis thorax upper_neck head_top {_ARMS}")
# MPII without pelvis and thorax, in LSP order (eldar/pose-tensorflow)
MPII14 = _make("mpii14", f"{_LEGS} {_ARMS} upper_neck head_top")
# MobilePose's order for Penn Action, LSP and MPII
LPM14 = _make(
    "lpm14", f"{_LEGS} left_elbow left_wrist neck head_top right_wrist right_elbow right_shoulder left_shoulder"
)
# CPM / LSTM Pose Machines' own order
CPM14 = _make(
    "cpm14",
    "head_top neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist"
    " right_hip right_knee right_ankle left_hip left_knee left_ankle",
)
COCO17 = _make(
    "coco17",
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow"
    " left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle",
)
PENN13 = _make(
    "penn13",
    "head left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist"
    " left_hip right_hip left_knee right_knee left_ankle right_ankle",
)
JHMDB15 = _make(
    "jhmdb15",
    "neck belly face right_shoulder left_shoulder right_hip left_hip right_elbow left_elbow"
    " right_knee left_knee right_wrist left_wrist right_ankle left_ankle",
)
AIC14 = _make(
    "aic14",
    "right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist"
    " right_hip right_knee right_ankle left_hip left_knee left_ankle head_top neck",
)
CROWDPOSE14 = _make(
    "crowdpose14",
    "left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist"
    " left_hip right_hip left_knee right_knee left_ankle right_ankle head_top neck",
)
K2HPD15 = _make(
    "k2hpd15",
    "head neck spine right_shoulder right_elbow right_hand left_shoulder left_elbow left_hand"
    " right_hip right_knee right_foot left_hip left_knee left_foot",
)

_KNOWN = (LSP14, MPII16, MPII14, LPM14, CPM14, COCO17, CROWDPOSE14, PENN13, JHMDB15, AIC14, K2HPD15)
SKELETONS = {s.name: s for s in _KNOWN}

# Joints that stand for one another where the exact one is absent, best first; each is a definition of its own, so the
# map calls it synthetic.
_SUBSTITUTES: dict[str, tuple[tuple[str, ...], ...]] = {
    "neck": (("upper_neck",), ("thorax",), ("left_shoulder", "right_shoulder")),
    "upper_neck": (("neck",), ("thorax",), ("left_shoulder", "right_shoulder")),
    "thorax": (("neck",), ("left_shoulder", "right_shoulder")),
    "pelvis": (("left_hip", "right_hip"),),
    "spine": (("belly",), ("left_shoulder", "right_shoulder", "left_hip", "right_hip")),
    "belly": (("spine",), ("left_shoulder", "right_shoulder", "left_hip", "right_hip")),
    "head": (("head_top",), ("face",), ("nose",)),
    "head_top": (("head",),),
    "face": (("head",), ("nose",), ("head_top",)),
    "nose": (("face",),),
}
for _one, _other in (("hand", "wrist"), ("wrist", "hand"), ("foot", "ankle"), ("ankle", "foot")):
    _SUBSTITUTES |= {f"{side}_{_one}": ((f"{side}_{_other}",),) for side in ("left", "right")}


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
        options = [o for o in ((joint,), *_SUBSTITUTES.get(joint, ())) if set(o) <= set(source.joints)]
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
