"""`python -m common.datasets pack`: every data set reads the same out of one file."""

import shutil

import numpy as np
import pytest

from common.datasets import load, splits, synthetic
from common.datasets.__main__ import main
from common.images import exists, image_size, read_image

pytest.importorskip("lmdb")
PICTURES = {".jpg", ".jpeg", ".png", ".bmp"}


@pytest.mark.parametrize("name", ["lsp", "mpii", "coco", "crowdpose", "ai_challenger"])
def test_a_packed_data_set_reads_the_same(name, tmp_path, capsys):
    root = tmp_path / name
    synthetic.make(name, root, 4, seed=1)
    before = {split: load(name, root, split) for split in splits(name, root)}
    pixels = {path: read_image(path) for pose_set in before.values() for path in pose_set.images}
    assert main(["pack", name, str(root)]) == 0
    assert f"{len(pixels)} pictures" in capsys.readouterr().out or before[next(iter(before))].paths
    assert main(["pack", name, str(root)]) == 2 and "exists already" in capsys.readouterr().err
    for path in [p for p in root.rglob("*") if p.suffix.lower() in PICTURES]:
        path.unlink()
    for split, expected in before.items():
        found = load(name, root, split)
        for old, new in zip(expected.images, found.images, strict=True):
            assert exists(new) and np.array_equal(read_image(new), pixels[old])
            assert image_size(new) == pixels[old].shape[1::-1]
        assert all(exists(path) for path in (found.paths or {}).values())
    capsys.readouterr()
    main(["check", name, str(root)])
    assert "missing" not in capsys.readouterr().out


def test_what_cannot_be_packed(tmp_path, capsys):
    assert main(["pack", "k2hpd", str(tmp_path)]) == 2 and "create_lmdb" in capsys.readouterr().err
    synthetic.make("lsp", tmp_path / "lsp", 4, seed=1)
    shutil.rmtree(tmp_path / "lsp/images")
    assert main(["pack", "lsp", str(tmp_path / "lsp")]) == 2
    assert "do not exist; unpack the data set again" in capsys.readouterr().err
    assert not (tmp_path / "lsp/images.lmdb").exists()
