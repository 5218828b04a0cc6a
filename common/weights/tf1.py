"""TensorFlow 1 checkpoints by variable name, both formats of `tf.train.Saver`, by its own reader and writers.

V1 (TensorFlow up to 0.11) is one file; V2 (0.12 and later) is `PREFIX.index` beside `PREFIX.data-00000-of-00001`.
TensorFlow is imported when the first file is read or written.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.files import atomic_write, publish, temporary_name

_REMEDY = "give the prefix (checkpoint-7) of an .index and .data pair, or an old single-file checkpoint"
_NOTE = re.compile(rb"I\d{4} |WARNING: All log messages before absl")
_DATA = ".data-00000-of-00001"


def tensorflow():
    """The module; DataError where it is not installed: networks of `.npz` files run without it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with _without_notes():
            import tensorflow as tf
    except ImportError as error:
        remedy = "install the house's requirements.txt, or give .npz files and set KERAS_BACKEND=torch"
        raise DataError(f"TensorFlow cannot be imported ({error}); {remedy}") from error
    return tf


@contextmanager
def _without_notes():
    """Inside, standard error loses the notes that TensorFlow's libraries write before they have read their log's level;
    everything else is written afterwards."""
    own = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(own, 2)
            os.close(own)
            said.seek(0)
            os.write(2, b"".join(line for line in said if not _NOTE.match(line)))


def check_name(path: Path) -> None:
    """DataError for the name of a checkpoint to write whose suffix belongs to another format."""
    if path.suffix and not path.suffix.startswith(".ckpt"):
        raise DataError(
            f"OUTPUT {path}: TensorFlow's checkpoints have no suffix {path.suffix}; leave it out, or write .npz"
        )


def find_checkpoint(path: str | Path) -> Path | None:
    """The prefix (V2) or file (V1) behind a name: itself, one of its files, or a folder with `checkpoint`; or None."""
    path = Path(path)
    if path.is_dir():
        return _newest(path)
    prefix = path.with_name(re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path.name)) if path.name else path
    if prefix.with_name(prefix.name + ".index").is_file() or prefix.is_file():
        return prefix
    return path if path.is_file() else None


def _newest(folder: Path) -> Path | None:
    """What the folder's `checkpoint` file names; in moved folders the name alone counts."""
    state = folder / "checkpoint"
    named = state.is_file() and re.search(r'^model_checkpoint_path: "(.+)"', state.read_text(errors="replace"), re.M)
    if not named:
        return None
    return find_checkpoint(folder / named[1]) or find_checkpoint(folder / Path(named[1].replace("\\", "/")).name)


def read_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Variable name -> array, of either format; bfloat16 as float32, partitioned variables whole, texts left out.

    DataError when it is missing, no checkpoint, cut short or damaged.
    """
    place = find_checkpoint(path)
    if place is None:
        raise DataError(f"TensorFlow checkpoint {path} does not exist; {_REMEDY}")
    tf = tensorflow()
    try:
        # under a plain name: TensorFlow takes [, * and ? in names for patterns
        with tempfile.TemporaryDirectory() as plain:
            for file in place.parent.glob(f"{escape(place.name)}*"):
                Path(plain, "c" + file.name.removeprefix(place.name)).symlink_to(file.absolute())
            reader = tf.train.load_checkpoint(f"{plain}/c")
            kinds = reader.get_variable_to_dtype_map()
            found = {n: _tensor(tf, reader, f"{plain}/c", n, kind) for n, kind in kinds.items() if kind != tf.string}
    except Exception as error:  # TensorFlow's own, RuntimeError, IndexError, ValueError
        what = f"{type(error).__name__}: {error}".splitlines()[0].replace(f"{plain}/c", str(place))
        what = f"TensorFlow checkpoint {place} cannot be read ({what}): it is cut short, damaged"
        raise DataError(f"{what}, lacks one of its files, or is something else; {_REMEDY}") from error
    if not found:
        raise DataError(f"TensorFlow checkpoint {place} holds no variables; {_REMEDY}")
    return {name: a.astype(np.float32) if a.dtype == tf.bfloat16.as_numpy_dtype else a for name, a in found.items()}


def _tensor(tf, reader, place: str, name: str, kind) -> np.ndarray:
    try:
        return np.asarray(reader.get_tensor(name))
    except tf.errors.UnimplementedError:  # a partitioned variable in an old file
        return tf.raw_ops.Restore(file_pattern=place, tensor_name=name, dt=kind).numpy()


def write_v2(prefix: str | Path, variables: Mapping[str, np.ndarray]) -> Path:
    """Write `PREFIX.index` and `PREFIX.data-00000-of-00001`, each whole or not at all, the index last."""
    prefix, tf = Path(prefix), tensorflow()
    prefix.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(prefix)
    try:
        options = {"prefix": str(temporary), "shape_and_slices": [""] * len(variables)}
        _save(tf, tf.raw_ops.SaveV2, variables, "tensors", **options)
        for suffix in (_DATA, ".index"):
            publish(f"{temporary}{suffix}", f"{prefix}{suffix}")
    finally:
        for file in prefix.parent.glob(f"{escape(temporary.name)}*"):
            file.unlink()
    return prefix


def write_v1(path: str | Path, variables: Mapping[str, np.ndarray]) -> Path:
    """Write an old single-file checkpoint, whole or not at all."""
    tf = tensorflow()
    options = {"shapes_and_slices": [""] * len(variables)}
    save = tf.raw_ops.SaveSlices
    return atomic_write(path, lambda to: _save(tf, save, variables, "data", filename=str(to), **options))


def _save(tf, operation, variables: Mapping[str, np.ndarray], values: str, **arguments) -> None:
    place = arguments.get("prefix") or arguments["filename"]
    try:
        with tf.device("CPU"):
            arrays = {values: [np.asarray(v) for v in variables.values()]}
            operation(tensor_names=list(variables), **arrays, **arguments)
    except tf.errors.OpError as error:
        raise OSError(f"{place} cannot be written: {error.message}") from error
