"""Rules that hold for the whole repository: what may be imported where, what every command answers, what lies at the
top."""

import ast
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Which framework a house may import. `keras` brings TensorFlow in; Chainer only ever loads batches in deeppose_tf.
HOUSES = {
    "lpm_torch": {"torch"},
    "deeppose_caffe_port": {"torch"},
    "deeppose_tf": {"tensorflow", "keras", "chainer"},
    "deepercut_tf": {"tensorflow", "keras"},
    "simplebaseline_paddle": {"paddle"},
}
FRAMEWORKS = {"torch", "torchvision", "tensorflow", "keras", "paddle", "chainer", "jax", "caffe"}
PACKAGES = ("common", *HOUSES)
REBUILT = [house for house in HOUSES if (ROOT / house / "estimator.py").exists()]
TOP_LEVEL = {
    *("requirements.txt", "requirements-gpu.txt", "README.md", *PACKAGES, "examples", "tests"),
    *(
        "pyproject.toml",
        "LICENSE",
        "CHANGELOG.md",
        ".gitignore",
        ".gitattributes",
        ".editorconfig",
        ".pre-commit-config.yaml",
        ".ci",
    ),
}


def name_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


ALL_FILES = sorted(path for folder in (*PACKAGES, "tests", "examples") for path in (ROOT / folder).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), filename=str(path)) for path in ALL_FILES}


def python_files(folder: str) -> list[pathlib.Path]:
    return [path for path in ALL_FILES if path.is_relative_to(ROOT / folder)]


def imported(tree: ast.AST) -> set[str]:
    """First components of everything a module imports, inside functions too, except what it tries and can do
    without."""
    optional = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        and any(ast.unparse(h.type) in ("ImportError", "ModuleNotFoundError") for h in node.handlers if h.type)
        for statement in node.body
        for child in ast.walk(statement)
    }
    names = set()
    for node in ast.walk(tree):
        if node in optional:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def is_command(path: pathlib.Path) -> bool:
    """A program for users: anything in a package that can be run; in tests/, what parses arguments."""
    guarded = any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in TREES[path].body
    )
    if path.is_relative_to(ROOT / "tests"):
        return guarded and "argparse" in imported(TREES[path])
    return guarded or path.name == "__main__.py"


COMMANDS = [path for path in ALL_FILES if is_command(path)]


def run_python(*arguments: str, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def test_importing_common_loads_no_framework(tmp_path):
    program = f"""
import importlib, sys
for name in {[name_of(p)[:-3].replace("/", ".").removesuffix(".__init__") for p in python_files("common")]}:
    sys.argv = [name, "--help"]
    try:
        importlib.import_module(name)
    except SystemExit:
        pass  # a __main__ module that answers --help
    loaded = {FRAMEWORKS} & set(sys.modules)
    assert not loaded, f"importing {{name}} loads {{sorted(loaded)}}"
"""
    answer = run_python("-c", program, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("house", PACKAGES)
def test_only_its_own_framework_is_imported(house):
    forbidden = (FRAMEWORKS | set(HOUSES)) - HOUSES.get(house, set()) - {house}
    wrong = {name_of(path): sorted(imported(TREES[path]) & forbidden) for path in python_files(house)}
    assert not {name: names for name, names in wrong.items() if names}


@pytest.mark.parametrize("path", COMMANDS, ids=name_of)
def test_help_answers_without_loading_a_framework(path, tmp_path):
    """From any working directory, and before a framework is imported: that is what keeps it under a second."""
    relative = path.relative_to(ROOT)
    if relative.parts[0] == "common":
        target = ("-m", ".".join(relative.with_suffix("").parts).removesuffix(".__main__"))
    else:
        target = (str(path),)
    answer = run_python("-X", "importtime", *target, "--help", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert "usage:" in answer.stdout
    modules = {
        line.rsplit("|", 1)[-1].strip().split(".")[0]
        for line in answer.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert modules, "Python reported no imports"
    assert not modules & FRAMEWORKS


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in PACKAGES
    for path in python_files(folder)
}


def imported_modules(tree: ast.AST) -> set[str]:
    """Which of MODULES a module imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= parts if parts <= MODULES.keys() else (parts | {node.module})
    return names & MODULES.keys()


def test_no_import_circle():
    """Imports inside functions count: modules that know each other are one module in two files."""
    names = [name for name in MODULES if name.split(".")[0] in ("common", *REBUILT)]
    graph = {name: imported_modules(TREES[MODULES[name]]) - {name} for name in names}
    while leaves := {name for name, known in graph.items() if not known & graph.keys()}:
        graph = {name: known for name, known in graph.items() if name not in leaves}
    while tops := graph.keys() - set().union(*graph.values()):  # what only leads to a circle
        graph = {name: known for name, known in graph.items() if name not in tops}
    assert not {name: sorted(known & graph.keys()) for name, known in graph.items()}


def test_no_package_imports_the_tests():
    wrong = [
        name_of(path)
        for path in ALL_FILES
        if not path.is_relative_to(ROOT / "tests") and "tests" in imported(TREES[path])
    ]
    assert not wrong


# ---- rooms: every house has the same files, and few others ----------

ROOMS = {
    *("README.md", "requirements.txt", "py.typed", "__init__.py"),
    *("config.py", "data.py", "model.py", "losses.py", "engine.py", "estimator.py", "weight_files.py"),
    *("train.py", "val.py", "predict.py", "convert.py"),
}
# What a paper alone needs, and the names under which users of the original call a programme.
EXTRA = {
    "lpm_torch": {
        "lstm.py": "the LSTM cell of LPM with its gates by name",
        "hourglass.py": "the original's third network",
        "official.py": "the authors' Matlab benchmark",
        "layers.py": "convolutions that are one product for all frames",
        "fft_conv.py": "the large kernels of CPM on a CPU",
        "caffe_map.py": "the authors' Caffe models by layer",
        "presets.yaml": "settings of the originals' files, and small ones",
        "test.py": "name of the original's programme",
        "valid.py": "name of the original's programme",
    },
    "deeppose_tf": {
        "prepare.py": "the original's CSV files, written",
        "csv_files.py": "the original's CSV files, read",
        "loader.py": "loading in Chainer's processes",
        "updates.py": "TensorFlow 1's update rules, and the step compiled around them",
        "report.py": "the original's printed block",
        "presets.yaml": "settings of the original's examples",
    },
    "deeppose_caffe_port": {
        "layers.py": "Caffe's layers with weights or statistics",
        "layers_plain.py": "Caffe's layers without weights",
        "sources.py": "what data layers read: LMDBs, lists of images, HDF5 files",
        "images.py": "patches, and the two ways of resizing",
        "prototxts.py": "the two networks' prototxts",
        "presets.yaml": "sizes and solvers of the presets",
        "forks.yaml": "layer types that are not here, and whose they are",
        "random_stream.py": "Caffe's random numbers",
        "solver.py": "Caffe's solver: its rules, policies and snapshots",
        "workflow.py": "the original's chain of steps",
        "prepare.py": "what the stages are trained on: lists, patches, LMDBs",
        "draw_loss.py": "name of the original's programme",
    },
    "deepercut_tf": {
        "items.py": "training items of the original's .mat files",
        "targets.py": "score maps, offsets and pairwise targets",
        "joints.py": "joints of the original's data sets",
        "detections.py": "score maps to detections",
        "pairwise.py": "probabilities that two detections are one person's",
        "multicut.py": "the graph partition",
        "prepare_mpii.py": "the original's crops of MPII",
        **dict.fromkeys(
            ("test.py", "test_multiperson.py", "train_spatial_model.py"), "name of an original's programme"
        ),
        **dict.fromkeys(("pairwise_stats.py", "vis_dataset.py", "eval_pck.py"), "name of an original's programme"),
        **dict.fromkeys(("eval_mscoco.py", "ai2coco_art_neckhead_json.py"), "name of an original's programme"),
    },
    "simplebaseline_paddle": {
        "records.py": "persons by box centre and scale",
        "test.py": "name of the original's programme",
    },
}


@pytest.mark.parametrize("house", REBUILT)
def test_rooms_of_a_house(house):
    """The same files in every house, and those others whose reason stands above."""
    files = {path.name for path in (ROOT / house).iterdir() if path.is_file() and path.suffix != ".pyc"}
    files -= {"requirements-gpu.txt"}
    assert not ROOMS - files, "rooms that are missing"
    assert not files - ROOMS - EXTRA[house].keys(), (
        "files that are no room: fold them in, or give their reason in EXTRA"
    )
    assert not EXTRA[house].keys() - files, "reasons for files that are gone"


# 23 000 of the second drawing, and 3 500 for what came after it: detectors, tracking, exchange, the report, recipes, weights, refusals
LINES = 26_500


def test_the_repository_stays_small():
    """A minimal repository of scripts: lines of Python outside tests/; shell scripts are short."""
    files = [path for path in ALL_FILES if not path.is_relative_to(ROOT / "tests")]
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert sum(lines.values()) <= LINES
    assert not {name: count for name, count in lines.items() if count > 450}
    assert all(len(path.read_text().splitlines()) <= 200 for path in (ROOT / "examples").glob("*.sh"))


def test_no_eval_and_no_star_imports():
    wrong = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                wrong.append(f"{name_of(path)}:{node.lineno}: {node.func.id}()")
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                wrong.append(f"{name_of(path)}:{node.lineno}: star import")
    assert not wrong


def test_top_level_is_as_agreed():
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout: what is ignored is not known")
    assert {line.split("/")[0] for line in listing.stdout.splitlines()} <= TOP_LEVEL


def pins(path: pathlib.Path) -> dict[str, str]:
    """Package (canonical name) -> exact version of a requirement file and those it includes."""
    found = {}
    for line in path.read_text().splitlines():
        line = line.split(" #")[0].strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("-r "):
            found.update(pins(path.parent / line[3:].strip()))
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[a-z,-]+\])?==([A-Za-z0-9.]+)", line)
        assert match, f"{name_of(path)}: '{line}' is not an exact pin"
        found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return found


def test_requirement_files_agree():
    everything = pins(ROOT / "requirements.txt")
    for house in PACKAGES:
        assert pins(ROOT / house / "requirements.txt").items() <= everything.items(), house
    gpu = pins(ROOT / "requirements-gpu.txt")
    differing = set(everything.keys() ^ gpu.keys()) | {
        n for n in everything.keys() & gpu.keys() if everything[n] != gpu[n]
    }
    assert differing == {"paddlepaddle", "paddlepaddle-gpu"}


@pytest.mark.parametrize("folder", [*PACKAGES, "tests"])
def test_everything_imported_is_pinned(folder):
    """A fresh machine installs what the requirement files name: no module may lean on what happens to be installed."""
    pinned = set(pins(ROOT / ("requirements.txt" if folder == "tests" else f"{folder}/requirements.txt")))
    owners = importlib.metadata.packages_distributions()
    missing = {}
    for path in python_files(folder):
        for module in imported(TREES[path]) - sys.stdlib_module_names - {*PACKAGES, "tests", "examples"}:
            distributions = {re.sub(r"[-_.]+", "-", name).lower() for name in owners.get(module, [])}
            if not distributions & pinned:
                missing.setdefault(module, []).append(name_of(path))
    assert not missing


# Packages that the five originals are built on -> the module that they are imported as.
USED = {
    **{
        name: name
        for name in ("torch", "tensorflow", "numpy", "scipy", "chainer", "tqdm", "easydict", "munkres", "pycocotools")
    },
    **{"paddlepaddle": "paddle", "opencv-python-headless": "cv2", "pyyaml": "yaml"},
}


@pytest.mark.parametrize("package", USED)
def test_packages_of_the_originals_are_required_and_used(package):
    if package == "easydict" and "deepercut_tf" not in REBUILT:
        pytest.skip("comes with the house that uses it")
    assert package in pins(ROOT / "requirements.txt")
    modules = [path for folder in PACKAGES for path in python_files(folder)]
    assert any(USED[package] in imported(TREES[path]) for path in modules)
