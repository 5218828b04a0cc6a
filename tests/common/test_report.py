"""The page: kinds of errors by known answers, groups, what it says, without pictures, and in a browser."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.evaluate import score
from common.poses import box_of_joints
from common.predictions import predictions_for, save_predictions
from common.report.__main__ import main
from common.report.diagnosis import KINDS, judge, persons_of
from common.report.page import judge_all, page
from common.skeletons import LSP14
from tests.bench.metrics import random_coco
from tests.common.test_protocols import make_set


def lsp_set(persons: int = 30, per_image: int = 1, **fields):
    """Persons standing in a grid, far from each other, in images that do not exist."""
    rng = np.random.default_rng(0)
    pose = rng.uniform(0, 100, (14, 2)) + 50
    pose[LSP14.indices(["left_shoulder", "right_shoulder"])] = [[120, 60], [80, 60]]
    pose[LSP14.indices(["left_hip", "right_hip"])] = [[120, 120], [80, 120]]
    joints = pose + np.arange(persons)[:, None, None] % per_image * [400, 0]
    images = np.arange(persons) // per_image
    known = {"joints": joints, "box": box_of_joints(joints), "image_id": images, "images": [f"{i}.jpg" for i in images]}
    return make_set("lsp", persons, **(known | fields))


def guesses(pose_set, off=8.0, seed=0):
    rng = np.random.default_rng(seed)
    joints, sure = pose_set.joints + rng.normal(0, off, pose_set.joints.shape), rng.random(pose_set.joints.shape[:2])
    return predictions_for(
        pose_set, joints, sure, {"house": "lpm_torch", "model": "<b>cpm</b>", "weights_hash": "ab12", "boxes": "oracle"}
    )


def test_kinds_of_errors_by_known_answers():
    pose_set = lsp_set(2, per_image=2)
    persons, joints = persons_of(pose_set), pose_set.joints.copy()
    a, b = LSP14.indices(["left_wrist", "right_wrist"])
    reach = np.sqrt(persons.area[0]) * 2 * persons.sigmas  # similarity falls to exp(-1/2) at this distance
    joints[0, LSP14.index("neck"), 0] += reach[LSP14.index("neck")]  # 0.61
    joints[0, a] = pose_set.joints[0, b]
    joints[0, LSP14.index("left_ankle")] = pose_set.joints[1, LSP14.index("left_ankle")]
    joints[0, LSP14.index("right_ankle")] = pose_set.joints[1, LSP14.index("left_ankle")]
    joints[0, LSP14.index("left_elbow")] += 5000
    joints[0, LSP14.index("right_elbow")] = np.nan
    predictions = predictions_for(pose_set, joints)
    judged = judge(Path("a"), persons, predictions, score(pose_set, predictions))
    kinds = {joint: KINDS[k] for joint, k in zip(LSP14.joints, judged.kind[0])}
    expected = {"neck": "jitter", "left_wrist": "inversion", "left_ankle": "swap", "right_ankle": "swap"}
    expected |= {"left_elbow": "miss", "right_elbow": "miss"}
    assert {joint: kind for joint, kind in kinds.items() if kind != "right"} == expected
    assert (judged.kind[1] == KINDS.index("right")).all()
    assert judged.share[0] == pytest.approx(100 * 8 / 14) or judged.share[0] == pytest.approx(100 * 9 / 14)


def test_persons_of_a_picture_find_their_predictions():
    pose_set, predictions = random_coco(40, 3)
    order = np.random.default_rng(0).permutation(len(predictions))
    straight = judge(Path("a"), persons_of(pose_set), predictions, score(pose_set, predictions))
    mixed = judge(
        Path("b"), persons_of(pose_set), predictions.select(order), score(pose_set, predictions.select(order))
    )
    np.testing.assert_array_equal(straight.joints, mixed.joints)
    assert straight.extra == mixed.extra and (straight.right <= 1).all() and straight.right.max() > 0.7


def test_rotation_size_and_occlusion_group_persons():
    pose_set = lsp_set(4)
    turned = pose_set.joints.copy()
    turned[1] = turned[1] @ [[0, 1], [-1, 0]]
    turned[2] = -turned[2]
    pose_set = replace(
        pose_set, joints=turned, visible=np.where(np.arange(4)[:, None] == 3, 1, 2) * np.ones((4, 14), np.int8)
    )
    persons = persons_of(pose_set)
    np.testing.assert_allclose(persons.rotation, [0, 90, 180, 0], atol=1e-6)
    rotation = persons.groups["rotation of the trunk (degrees)"]
    assert [m.tolist().index(True) for m in rotation.values()] == [0, 1, 2]
    assert persons.groups["joints marked as occluded"]["4 and more"].tolist() == [False, False, False, True]


def test_a_page_of_two_files_without_pictures():
    pose_set = lsp_set(60, per_image=2)
    files = [(Path(__file__), guesses(pose_set)), (Path(__file__), guesses(pose_set, 40, 1))]
    text = page(*judge_all(pose_set, files, bootstrap=50))
    assert "pck_torso@0.2" in text and "Ronchi" in text and "ab12" in text and "python -m common.evaluate" in text
    assert "&lt;b&gt;cpm" in text and "<b>cpm" not in text, "what files say is text"
    assert not re.search(r'(src|href)="(?!#|data:)', text), "nothing is fetched"
    table = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    assert len(table["rows"]) == 60 and len(table["rows"][0]) == len(table["columns"])


def images_and_files(folder):
    """An LSP folder with pictures and two prediction files, the second far better."""
    import scipy.io

    from common import datasets

    pose_set, table = lsp_set(40), np.zeros((3, 14, 40))
    table[:2] = pose_set.joints.transpose(2, 1, 0) + 1
    scipy.io.savemat(folder / "joints.mat", {"joints": table})
    (folder / "images").mkdir()
    for i in range(40):
        cv2.imwrite(
            str(folder / "images" / f"im{i + 1:04d}.jpg"),
            np.random.default_rng(i).integers(0, 255, (180, 200, 3), np.uint8),
        )
    pose_set = datasets.load("lsp", folder, "1-40")
    for name, off in (("worse", 40), ("better", 5)):
        save_predictions(folder / f"{name}.npz", guesses(pose_set, off))
    return [
        "--dataset",
        "lsp",
        "--data_root",
        folder,
        "--split",
        "1-40",
        "--predictions",
        folder / "worse.npz",
        folder / "better.npz",
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    words = images_and_files(folder)
    assert (
        main(
            [
                *map(str, words),
                "--bootstrap",
                "200",
                "--pictures",
                "9",
                "--out",
                str(folder / "r.html"),
                "--json",
                str(folder / "d.json"),
            ]
        )
        == 0
    )
    return folder / "r.html"


def test_the_command_compares_files_and_shows_pictures(made, capsys, tmp_path):
    text = made.read_text()
    differences = json.loads((made.parent / "d.json").read_text())
    assert {row[4] for row in differences["rows"]} >= {"better"} and str(made.parent) not in str(differences)
    assert "better is better" in text and text.count("data:image/jpeg;base64") == 9
    assert all(section in text for section in ("Most disputed", "Worst", "Best", "calibration"))
    assert (
        main(
            [
                "--dataset",
                "lsp",
                "--data_root",
                str(made.parent),
                "--split",
                "1-40",
                "--predictions",
                str(tmp_path / "no.npz"),
            ]
        )
        == 2
    )
    assert "does not exist" in capsys.readouterr().err


class Browser:
    """Headless Chromium through chromedriver's HTTP interface (W3C WebDriver)."""

    def __init__(self, port: int):
        self.port, self.session = port, ""
        self.process = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"]
        wanted = {"goog:chromeOptions": {"args": words}, "goog:loggingPrefs": {"browser": "ALL"}}
        for _ in range(100):
            try:
                self.session = self.call("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
                break
            except OSError:
                time.sleep(0.1)

    def call(self, path: str, body: dict):
        at = f"http://127.0.0.1:{self.port}/session" + (f"/{self.session}/{path}" if path else "")
        request = urllib.request.Request(at, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)["value"]

    def run(self, script: str):
        return self.call("execute/sync", {"script": script, "args": []})

    def command(self, name: str, **options):
        self.call("goog/cdp/execute", {"cmd": name, "params": options})

    def close(self):
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="module")
def browser(made):
    if not (shutil.which("chromedriver") and shutil.which("chromium")):
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    opened = Browser(port)
    try:
        opened.call("url", {"url": f"file://{made}"})
        yield opened
    finally:
        opened.close()


def column(browser, number):
    return browser.run(
        f"return [...document.querySelectorAll('#table tbody tr')].map((row) => row.cells[{number}].textContent)"
    )


def test_in_a_browser_the_table_sorts_and_filters(browser):
    heads = browser.run("return [...document.querySelectorAll('#table th')].map((head) => head.textContent)")
    number = heads.index("worse: right, % (a)")
    press = f"document.querySelectorAll('#table th button')[{number}].click()"
    browser.run(press)
    values = list(map(int, column(browser, number)))
    assert len(values) == 40 and values == sorted(values)
    browser.run(press)
    assert list(map(int, column(browser, number))) == values[::-1]
    assert (
        browser.run(f"return document.querySelectorAll('#table th')[{number}].getAttribute('aria-sort')")
        == "descending"
    )

    def filtered(text):
        browser.run(
            f"const f = document.getElementById('filter'); f.value = '{text}'; f.dispatchEvent(new Event('input'))"
        )
        return column(browser, 0), browser.run("return document.getElementById('count').textContent")

    assert filtered("im0007")[0] == ["im0007.jpg"]
    bound = values[20]
    assert len(filtered(f"a<{bound}")[0]) == sum(v < bound for v in values)
    assert filtered("nothing")[1] == "nobody"
    filtered("")


def test_in_a_browser_pictures_enlarge_and_layers_hide(browser):
    browser.run("document.querySelector('.card').click()")
    assert browser.run("return document.getElementById('zoom').open && !!document.querySelector('#zoom svg image')")
    browser.run("document.getElementById('zoom').close()")
    shown = "return getComputedStyle(document.querySelector('.card .t')).display"
    assert browser.run(shown) != "none"
    browser.run("document.querySelector('[data-hide=hidetruth]').click()")
    assert browser.run(shown) == "none"
    browser.run("document.querySelector('[data-hide=hidetruth]').click()")


def test_in_a_browser_dark_narrow_and_without_errors(browser):
    def paper():
        return sum(
            map(int, re.findall(r"\d+", browser.run("return getComputedStyle(document.body).backgroundColor"))[:3])
        )

    browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    assert paper() > 700
    browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert paper() < 120
    browser.command("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    assert browser.run("return document.documentElement.scrollWidth") <= 360, "the page itself never scrolls sideways"
    assert [line for line in browser.call("se/log", {"type": "browser"}) if line["level"] == "SEVERE"] == []
