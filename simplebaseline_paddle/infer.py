"""Networks as functions from array to array, as fast as the machine allows.

`predictor`: the network is exported once into a temporary folder and run by paddle.inference, on CPUs with oneDNN, on GPUs with Paddle's own
kernels or TensorRT; batch norms are folded into convolutions there. `eager`: the network as it is trained. They differ by about 1e-5
standard deviations of the maps. `bf16`: the predictor on a CPU with convolutions in bfloat16, whose 8 bits of mantissa move the maps by
about 1e-2 standard deviations (root mean square); twice as fast as oneDNN's float32, which is at the processor's limit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.errors import DataError

ENGINES = ("auto", "predictor", "bf16", "tensorrt", "eager")


def make_forward(
    model, size: tuple[int, int], engine: str = "auto", gpu: bool = False, threads: int = 0
) -> Callable[[np.ndarray], np.ndarray]:
    """(N,3,H,W) float32 -> (N,K,h,w) float32 for inputs of `size` = (width, height); `threads` CPU threads, 0: those of OMP_NUM_THREADS.

    DataError when `bf16` is asked for where nothing computes in it.
    """
    if engine == "bf16" and (gpu or not has_bfloat16()):
        raise DataError("--engine bf16 needs a CPU with avx512_bf16 or amx_bf16 (and --no-use_gpu); leave it out")
    model.eval()
    if engine == "eager":
        return _eager(model)
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "network"
        export_inference(model, prefix, size)
        return Predictor(prefix, engine, gpu, threads)


def has_bfloat16(cpuinfo: str | Path = "/proc/cpuinfo") -> bool:
    """Whether the processor multiplies bfloat16 numbers; others would imitate it, slower than float32."""
    path = Path(cpuinfo)
    return (
        bool({"avx512_bf16", "amx_bf16"} & set(path.read_text(errors="replace").split())) if path.is_file() else False
    )


def _eager(model) -> Callable[[np.ndarray], np.ndarray]:
    import paddle

    def forward(inputs: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            return model(paddle.to_tensor(np.ascontiguousarray(inputs))).astype("float32").numpy()

    return forward


def export_inference(model, prefix: Path, size: tuple[int, int]) -> None:
    """Paddle's inference format: PREFIX.json (PREFIX.pdmodel before Paddle 3) and PREFIX.pdiparams, for any batch of `size` = (width, height)."""
    import paddle
    from paddle.static import InputSpec

    model.eval()
    width, height = size
    paddle.jit.save(model, str(prefix), input_spec=[InputSpec([None, 3, height, width], "float32", "image")])


class Predictor:
    """An exported network. Call it with (N,3,H,W) float32."""

    def __init__(self, prefix: str | Path, engine: str = "auto", gpu: bool = False, threads: int = 0):
        from paddle import inference

        prefix = Path(prefix)
        program = next(
            (f for f in (prefix.with_name(prefix.name + s) for s in (".json", ".pdmodel")) if f.is_file()), None
        )
        if program is None:
            raise FileNotFoundError(f"{prefix}.json (or .pdmodel) does not exist")
        config = inference.Config(str(program), str(prefix.with_name(prefix.name + ".pdiparams")))
        config.disable_glog_info()
        config.switch_ir_optim(True)
        if gpu:
            config.enable_use_gpu(512, 0)
            if engine == "tensorrt":
                config.enable_tensorrt_engine(1 << 30, 32, 3, inference.PrecisionType.Float32, False, False)
        else:
            config.disable_gpu()
            config.enable_mkldnn()
            if engine == "bf16":
                config.enable_mkldnn_bfloat16()
            config.set_cpu_math_library_num_threads(threads or _omp_threads())
        self._predictor = inference.create_predictor(config)
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        self._input.copy_from_cpu(np.ascontiguousarray(inputs, np.float32))
        self._predictor.run()
        return self._output.copy_to_cpu()


def _omp_threads() -> int:
    import os

    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else os.cpu_count() or 1
