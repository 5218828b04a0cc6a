"""Three recipes of `common.reproduce` rehearsed from the first step to the line of the row, one a framework, on fewer
people than `--rehearse` takes: the full networks at their full size all the same."""

import pytest

from common import reproduce

FEWER = {  # recipe: what its steps add in place of what recipes.yaml says
    "simplebaseline_coco_caffe/caffe_resnet50_256x192": {
        "train": "--epochs 1 --limit 5 --batch_size 2 --accumulate 2",
        "score": "--limit 4 --batch_size 2",
    },
    "lpm_torch_lsp/lpm": {
        "train": "--epochs=1 --limit=1 --valid_split=none --batch_size=1 --accumulate=1",
        "score": "--limit=1",
    },
    "deeppose_tf_lsp_start/alexnet_scratch_step0": {
        "prepare": None,
        "train": "--data_root datasets/lsp",
        "score": "--data_root datasets/lsp --split test --limit 4",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FEWER)
def test_a_recipe_rehearsed(name, tmp_path, monkeypatch, capsys):
    recipe = reproduce.recipe_of(name)
    monkeypatch.setitem(recipe.fields, "rehearse", FEWER[name])
    for data in recipe.fields["data"]:
        monkeypatch.setitem(reproduce._content()["data"][data], "count", 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = reproduce.rehearse([name], tmp_path)
    assert result["rows"][0][:2] == [name, 1] and result["rows"][0][2] >= 1
    assert capsys.readouterr().out.rstrip().endswith("SYNTHETIC, not comparable")
    assert (tmp_path / "output/rehearsal.json").is_file()
