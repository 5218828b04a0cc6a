"""The shell scripts: they parse, and examples/setup.sh does what its --help says. A fake Python stands in, so nothing is installed."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = sorted([*ROOT.glob("examples/*.sh"), *ROOT.glob("tests/*.sh"), *ROOT.glob("*/*/*.sh"), ROOT / ".ci" / "run"])
TOOLS = "bash basename cat cut dirname flock grep mkdir mktemp mv rm sha256sum tail tee chmod cp".split()

# Answers what setup.sh asks of an interpreter; `-m venv DIR` makes DIR/bin/python a copy of itself; every call of pip is logged.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
  *sys.implementation*) echo "cpython {version}" ;;
  --version) echo "Python {version}" ;;
  "-c import ensurepip, venv") exit {ensurepip} ;;
  "-m venv "*) target="${{@: -1}}"; mkdir -p "$target/bin"; cp "$0" "$target/bin/python" ;;
  "-m pip --version") ;;
  "-m pip "*) echo "$0 $*" >>"$PIP_LOG"; echo "Collecting something"; exit "${{PIP_STATUS:-0}}" ;;
  *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""


class Checkout:
    """A copy of the files that setup.sh reads, with a PATH on which only the needed tools and fake interpreters lie."""

    def __init__(self, folder: pathlib.Path):
        self.root = folder / "checkout with space"
        self.tools = folder / "bin"
        self.pip_log = folder / "pip.log"
        self.tools.mkdir(parents=True)
        for tool in TOOLS:
            (self.tools / tool).symlink_to(shutil.which(tool))
        requirements = [*ROOT.glob("requirements*.txt"), *ROOT.glob("*/requirements*.txt")]
        for source in [*requirements, ROOT / "pyproject.toml", ROOT / "examples/setup.sh"]:
            target = self.root / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)

    def add_python(self, name: str, version: str, ensurepip: bool = True) -> None:
        self.fake(self.tools / name, version, ensurepip)

    @staticmethod
    def fake(path: pathlib.Path, version: str, ensurepip: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FAKE_PYTHON.format(version=version, ensurepip=0 if ensurepip else 1))
        path.chmod(0o755)

    def setup(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        variables = {"PATH": str(self.tools), "HOME": str(self.root), "PIP_LOG": str(self.pip_log), **environment}
        command = [shutil.which("bash"), str(self.root / "examples/setup.sh"), *arguments]
        return subprocess.run(command, env=variables, cwd=self.tools, capture_output=True, text=True, timeout=60)

    def pip_calls(self) -> list[str]:
        """The pip calls since the last time this was asked."""
        calls = self.pip_log.read_text().splitlines() if self.pip_log.exists() else []
        self.pip_log.unlink(missing_ok=True)
        return calls


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_script_parses(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_no_suitable_python_is_said_in_one_line(checkout):
    checkout.add_python("python3", "3 12")
    answer = checkout.setup()
    assert answer.returncode == 2
    lines = answer.stderr.splitlines()
    assert len(lines) == 1 and "CPython 3.11 is needed" in lines[0] and "Python 3 12" in lines[0]
    assert not checkout.pip_calls() and not (checkout.root / ".venv").exists()


def test_python3_is_used_when_it_is_3_11_and_python311_is_broken(checkout):
    checkout.add_python("python3.11", "3 10")  # as a shim that points elsewhere
    checkout.add_python("python3", "3 11")
    answer = checkout.setup("--python")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == f"{checkout.root}/.venv/bin/python\n"
    assert f"with {checkout.tools}/python3\n" in answer.stderr


def test_python_without_ensurepip_gets_pip_from_outside(checkout):
    checkout.add_python("python3.11", "3 11", ensurepip=False)
    answer = checkout.setup()
    assert answer.returncode == 0, answer.stderr
    calls = checkout.pip_calls()
    assert calls[0] == f"{checkout.tools}/python3.11 -m pip --python {checkout.root}/.venv/bin/python install pip"
    assert len(calls) == 4


def test_first_call_installs_in_order_and_second_call_never_runs_pip(checkout):
    checkout.add_python("python3.11", "3 11")
    first = checkout.setup()
    assert first.returncode == 0, first.stderr
    assert "Collecting something" in first.stderr and first.stdout == ""
    tools, everything, editable = checkout.pip_calls()
    assert "install setuptools==" in tools and " wheel==" in tools
    assert everything.endswith("install --no-build-isolation -r requirements.txt")
    assert editable.endswith("-e .")
    second = checkout.setup("--python")
    assert (
        second.returncode == 0 and second.stderr == "" and second.stdout.strip() == f"{checkout.root}/.venv/bin/python"
    )
    part = checkout.setup("lpm_torch")  # of everything
    assert part.returncode == 0 and "everything is there" in part.stderr
    assert not checkout.pip_calls()


def test_changed_requirements_are_installed(checkout):
    checkout.add_python("python3.11", "3 11")
    assert checkout.setup().returncode == 0
    checkout.pip_calls()
    with open(checkout.root / "lpm_torch/requirements.txt", "a") as file:
        file.write("attrs==26.1.0\n")
    assert checkout.setup().returncode == 0
    assert len(checkout.pip_calls()) == 3


def test_one_house_alone_and_then_another(checkout):
    checkout.add_python("python3.11", "3 11")
    assert checkout.setup("lpm_torch/").returncode == 0
    assert checkout.pip_calls()[1].endswith("install --no-build-isolation -r lpm_torch/requirements.txt")
    assert checkout.setup("lpm_torch").returncode == 0 and not checkout.pip_calls()
    assert checkout.setup("lpm_torch", "common").returncode == 0
    assert checkout.pip_calls()[1].endswith("-r lpm_torch/requirements.txt -r common/requirements.txt")
    assert checkout.setup().returncode == 0
    assert checkout.pip_calls()[1].endswith("-r requirements.txt")


def test_gpu_replaces_paddle_and_stays(checkout):
    checkout.add_python("python3.11", "3 11")
    assert checkout.setup().returncode == 0
    checkout.pip_calls()
    assert checkout.setup("--gpu").returncode == 0
    calls = checkout.pip_calls()
    assert calls[0].endswith("uninstall -y paddlepaddle") and calls[2].endswith("-r requirements-gpu.txt")
    assert checkout.setup().returncode == 0 and not checkout.pip_calls()
    assert checkout.setup("deeppose_tf").returncode == 0 and not checkout.pip_calls()


def test_a_failed_installation_is_not_taken_for_a_finished_one(checkout):
    checkout.add_python("python3.11", "3 11")
    failed = checkout.setup(PIP_STATUS="1")
    assert failed.returncode == 1 and "pip failed" in failed.stderr and "Collecting something" in failed.stderr
    assert len(checkout.pip_calls()) == 1
    assert checkout.setup().returncode == 0
    assert len(checkout.pip_calls()) == 3


def test_a_half_installed_package_is_dropped(checkout):
    checkout.add_python("python3.11", "3 11")
    packages = checkout.root / ".venv/lib/python3.11/site-packages"
    whole, half = packages / "whole-1.0.dist-info", packages / "half-1.0.dist-info"
    for folder in (whole, half):
        folder.mkdir(parents=True)
        (folder / "METADATA").touch()
    (whole / "INSTALLER").touch()
    assert checkout.setup().returncode == 0
    assert whole.exists() and not half.exists()


def test_active_environment(checkout, tmp_path):
    assert checkout.setup(POSE_VENV="active").returncode == 2  # none is active
    assert checkout.setup(POSE_VENV="mine").returncode == 2
    active = tmp_path / "active"
    checkout.fake(active / "bin/python", "3 11")
    answer = checkout.setup("--python", POSE_VENV="active", VIRTUAL_ENV=str(active))
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == f"{active}/bin/python\n"
    calls = checkout.pip_calls()
    assert len(calls) == 3 and all(call.startswith(f"{active}/bin/python ") for call in calls)
    assert not (checkout.root / ".venv").exists()
    assert checkout.setup(POSE_VENV="active", VIRTUAL_ENV=str(active)).returncode == 0 and not checkout.pip_calls()


def test_environment_of_another_python_is_left_alone(checkout):
    checkout.add_python("python3.11", "3 11")
    checkout.fake(checkout.root / ".venv/bin/python", "3 12")
    answer = checkout.setup()
    assert answer.returncode == 2 and "not a CPython 3.11 environment" in answer.stderr
    assert not checkout.pip_calls()


def test_a_linked_environment_is_used_and_never_installed_into(checkout, tmp_path):
    checkout.add_python("python3.11", "3 11")
    assert checkout.setup().returncode == 0
    checkout.pip_calls()
    other = Checkout(tmp_path / "other")
    (other.root / ".venv").symlink_to(checkout.root / ".venv")
    answer = other.setup("--python")
    assert answer.returncode == 0 and answer.stdout == f"{other.root}/.venv/bin/python\n", answer.stderr
    with open(other.root / "lpm_torch/requirements.txt", "a") as file:
        file.write("attrs==26.1.0\n")
    answer = other.setup()
    assert answer.returncode == 2 and f"belongs to {checkout.root}" in answer.stderr and "Remove" in answer.stderr
    assert not other.pip_calls() and not checkout.pip_calls()
    assert checkout.setup().returncode == 0 and not checkout.pip_calls(), "the owner is not disturbed"


def test_a_copied_environment_is_used_or_refused_and_a_moved_checkout_set_up_again(checkout, tmp_path):
    checkout.add_python("python3.11", "3 11")
    assert checkout.setup().returncode == 0
    other = Checkout(tmp_path / "other")
    shutil.copytree(checkout.root / ".venv", other.root / ".venv")
    assert other.setup("--python").returncode == 0 and not other.pip_calls()
    moved = checkout.root.with_name("moved")
    checkout.root.rename(moved)
    checkout.root = moved
    checkout.pip_calls()
    answer = checkout.setup()
    assert answer.returncode == 0, answer.stderr
    assert len(checkout.pip_calls()) == 3, "the editable install points to the old place"


def test_help_and_unknown_arguments(checkout):
    answer = checkout.setup("--help")
    assert answer.returncode == 0 and "Usage:" in answer.stdout
    answer = checkout.setup("nowhere")
    assert answer.returncode == 2 and "nowhere" in answer.stderr


@pytest.fixture
def suite(tmp_path):
    """A function that writes test files beside a copy of tests/run.sh, runs it and returns (exit code, last line, everything)."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "tests/run.sh", tmp_path / "tests/run.sh")
    (tmp_path / "examples/setup.sh").write_text(f"echo '{sys.executable}'\n")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--import-mode=importlib'\n")

    def run(files: dict[str, str], *arguments: str) -> tuple[int, str, str]:
        for name, text in files.items():
            path = tmp_path / "tests" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        command = ["bash", str(tmp_path / "tests/run.sh"), *arguments]
        answer = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=120)
        return answer.returncode, answer.stdout.splitlines()[-1], answer.stdout + answer.stderr

    return run


PASSES = "def test_it():\n    assert True\n"
FAILS = "def test_it():\n    assert False\n"
SKIPS = 'import pytest\n\n\ndef test_it():\n    pytest.skip("why")\n'
DIES = "import os\n\n\ndef test_it():\n    os._exit(139)\n"


def test_run_sums_the_processes_and_fails_when_one_fails(suite):
    files = {
        "common/test_a.py": PASSES,
        "lpm_torch/test_a.py": SKIPS,
        "deeppose_tf/test_a.py": FAILS,
        "test_top.py": PASSES,
    }
    code, last, text = suite(files)
    assert (code, last) == (1, "2 passed, 1 failed, 1 skipped"), text
    assert "== paddle" not in text  # the folder does not exist
    code, last, text = suite({}, "tests/common", "tests/test_top.py::test_it", "-q")
    assert (code, last) == (0, "2 passed, 0 failed, 0 skipped"), text


def test_run_fails_when_a_process_dies_when_nothing_ran_and_when_ruff_complains(suite):
    code, last, text = suite({"common/test_a.py": PASSES, "simplebaseline_paddle/test_a.py": DIES})
    assert (code, last) == (1, "1 passed, 1 failed, 0 skipped") and "code 139" in text, text
    code, last, text = suite({}, "tests/common", "-k", "nothing")
    assert (code, last) == (1, "0 passed, 0 failed, 0 skipped"), text
    code, last, text = suite({"common/test_a.py": "import os\n" + PASSES}, "tests/common")
    assert (code, last) == (1, "1 passed, 0 failed, 0 skipped") and "F401" in text, text
