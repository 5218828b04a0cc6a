"""An iteration as on a GPU: all tensors on one device, and nothing waits for it (but clipping, whose log line needs the norm)."""

import pytest

from common.runs.process import Process
from deeppose_caffe_port.config import Config
from deeppose_caffe_port.solver import Solver
from tests.deeppose_caffe_port.test_solver import SOLVER, make
from tests.far_device import FAR, no_waiting


@pytest.mark.parametrize("more", ["", 'type: "Adam" momentum2: 0.99', 'type: "AdaDelta" delta: 1e-6', "iter_size: 2"])
def test_an_iteration_never_waits_for_its_gpu(tmp_path, more):
    project = make(tmp_path)
    (project / "solver.prototxt").write_text(SOLVER.replace("display: 1", "display: 0") + more)
    config = Config(solver=str(project / "solver.prototxt"), folder=str(project), rotate=10, zoom=1.1)
    solver = Solver(project / "solver.prototxt", project, config, Process(), FAR, print)
    with no_waiting():
        for _ in range(2):
            batch = [solver.feeds() for _ in range(solver.param.iter_size)]
            assert solver.iterate(batch)["loss"].device == FAR
    solver.close()
