"""LSP and LSPET: one person a picture, cut out around the person, `joints.mat` and `images/` as their authors publish them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.skeletons import LSP14
from common.synthetic import compose
from common.synthetic.compose import COVERED, OUTSIDE, VISIBLE, Posing, Truth
from common.synthetic.folder import generator, write_jpeg, write_mat

_LSP = Posing(roll=20, any_roll=0.08, pitch=14, looseness=1.1)
_LSPET = Posing(roll=35, any_roll=0.4, pitch=22, facing=0.3, looseness=1.35)


def write_lsp(folder: Path, count: int, seed: int) -> None:
    """im0001.jpg ..., joints (3,14,N): rows x, y, flag with 1 = occluded. Every joint is inside the picture and annotated."""
    table = _write(folder, "lsp", count, seed, _LSP, (0.04, 0.25), 0.35)
    occluded = (table[:, :, 2] != VISIBLE).astype(float)
    write_mat(folder / "joints.mat", {"joints": np.dstack([table[:, :, :2], occluded]).transpose(2, 1, 0)})


def write_lspet(folder: Path, count: int, seed: int) -> None:
    """im00001.jpg ..., joints (14,3,N): columns x, y, flag with 1 = usable.

    Joints that lie outside or under something else have flag 0 and a meaningless place left of and above the picture.
    """
    table = _write(folder, "lspet", count, seed, _LSPET, (-0.03, 0.2), 0.45)
    usable = ~np.isin(table[:, :, 2], (OUTSIDE, COVERED))
    places = np.where(usable[..., None], table[:, :, :2], -np.abs(table[:, :, :2]) - 5)
    write_mat(folder / "joints.mat", {"joints": np.dstack([places, usable.astype(float)]).transpose(1, 2, 0)})


def _write(
    folder: Path, name: str, count: int, seed: int, posing: Posing, margin: tuple[float, float], occluded: float
) -> np.ndarray:
    """Draws the pictures; returns (N,14,3) x, y, state."""
    (folder / "images").mkdir()
    digits = 4 if name == "lsp" else 5
    table = np.zeros((count, len(LSP14), 3))
    for k in tqdm(range(count), desc=f"synthetic {name}", unit="image"):
        image, truth = draw_one(generator(name, seed, k), posing, margin, occluded)
        write_jpeg(folder / "images" / f"im{k + 1:0{digits}d}.jpg", image)
        points, states = truth.table(LSP14.joints)
        table[k] = np.column_stack([points, states])
    return table


def draw_one(
    rng: np.random.Generator, posing: Posing, margin: tuple[float, float], occluded: float
) -> tuple[np.ndarray, Truth]:
    """One picture of one person, whose longer side is 120 to 190 pixels; `occluded` is the chance of something in front."""
    figure = compose.sample_figure(rng, posing)
    figure, camera, width, height = compose.frame_tightly(rng, figure, (120, 190), margin)
    stage = compose.make_stage(rng, width, height, camera)
    if rng.random() < occluded:
        compose.add_occluder(rng, stage, (0.08, 0.25), 1.0)
    picture = compose.render(rng, stage, [figure])
    return picture.image, picture.people[0]
