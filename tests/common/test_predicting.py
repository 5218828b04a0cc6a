"""The library around every predict.py: sources, boxes, lines, formats, drawings, following and numbering persons."""

import csv
import itertools
import json
import os

import numpy as np
import pytest

from common import video
from common.boxes import Boxes, parse_box
from common.draw import save_image
from common.errors import DataError
from common.images import read_image
from common.predictions import People
from common.runs import predicting
from common.runs.predicting import Answers, Source, parser
from common.skeletons import LSP14
from common.tracking import Tracker, assign


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)


def person(x: float, y: float = 24, size: float = 10) -> np.ndarray:
    """(14,2) joints around a place."""
    return np.random.default_rng(7).uniform(-size, size, (14, 2)) + (x, y)


def people(*places: float) -> People:
    return People.of(np.array([person(x) for x in places]).reshape(-1, 14, 2), np.full((len(places), 14), 0.9))


def clip(path, frames: int = 6):
    with video.VideoWriter(path, 10) as out:
        for seed in range(frames):
            out.write(picture(seed))
    return path


def predict(words, answer, padding=0.2, boxes=True):
    args = parser("about", boxes).parse_args([str(w) for w in words])
    source = Source(args.source, args.recursive, args.limit) if boxes else Source(args.source, False, args.limit)
    with Answers(args, source, LSP14, "house", padding) as answers:
        for one in itertools.chain.from_iterable(answers.track(source)):
            answers.write(one, answer(one))
    return answers.folder


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "joints.jsonl").read_text().splitlines()]


def test_a_folder_becomes_lines_and_drawings_of_the_fixed_form(tmp_path):
    for seed, name in enumerate(("10.png", "2.png", "2.bmp", "in/3.png")):
        save_image(tmp_path / "pictures" / name, picture(seed))
    joints = person(30)
    joints[3] = np.nan
    folder = predict([tmp_path / "pictures", "--recursive", "--out", tmp_path / "o"], lambda p: People.of(joints[None]))
    rows = lines(folder)
    assert [r["image"] for r in rows] == ["2.bmp", "2.png", "10.png", "in/3.png"]
    assert [r["index"] for r in rows] == [0, 1, 2, 3]
    first = rows[0]
    assert first["size"] == [64, 48] and first["skeleton"] == "lsp14" and first["joint_names"] == list(LSP14.joints)
    (found,) = first["persons"]
    assert found["id"] == -1 and len(found["box"]) == 4 and found["joints"][3] is None
    np.testing.assert_allclose(found["joints"][0], [*joints[0], 1.0], atol=2 * 0.005 + 1e-9)  # two decimals are written
    # 2.bmp and 2.png have drawings of their own
    drawn = {str(p.relative_to(folder)) for p in folder.rglob("*_pose.png")}
    assert drawn == {f"{r['image']}_pose.png" for r in rows}


def test_several_sources_are_told_apart(tmp_path):
    for name in ("one/a.png", "two/a.png"):
        save_image(tmp_path / name, picture(0))
    words = [clip(tmp_path / "c.mp4", 3), clip(tmp_path / "d.mp4", 3), tmp_path / "one/a.png", tmp_path / "two/a.png"]
    folder = predict([*words, "--track", "--out", tmp_path / "o"], lambda p: people(20, 40))
    rows = lines(folder)
    assert [[one["id"] for one in row["persons"]] for row in rows] == 8 * [[0, 1]], "numbers start anew"
    assert {p.name for p in folder.iterdir()} == {
        "joints.jsonl",
        "overlay_1.mp4",
        "overlay_2.mp4",
        "a.png_pose.png",
        "a.png_pose_1.png",
    }
    assert [row.get("time") for row in rows[2:5]] == [0.2, 0.0, 0.1]


def test_what_is_drawn_besides_by_option(tmp_path):
    save_image(tmp_path / "a.png", picture(0))
    pictures = {}
    for show in ("none", "boxes,scores,hollow", "legend"):
        folder = predict([tmp_path / "a.png", "--show", show, "--out", tmp_path / show], lambda p: people(20, 40))
        pictures[show] = read_image(folder / "a.png_pose.png")
    assert (pictures["none"] != pictures["boxes,scores,hollow"]).any()
    assert pictures["legend"].shape[1] > 64
    with pytest.raises(DataError, match="--show"):
        predict([tmp_path / "a.png", "--show", "all", "--out", tmp_path / "o"], lambda p: people(20))


def test_a_followed_person_keeps_its_colour_when_alone(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("common.draw.draw_pose", lambda image, *rest, **how: (drawn.append(how["numbers"]), image)[1])
    predict(
        [clip(tmp_path / "c.mp4", 3), "--out", tmp_path / "v"], lambda p: people(*((20, 44) if p.index == 1 else (20,)))
    )
    assert drawn == [None, [0, 1], [0]]


def test_a_video_keeps_time_and_formats(tmp_path):
    words = [clip(tmp_path / "clip.mp4"), "--out", tmp_path / "o", "--limit", 3, "--format", "jsonl,coco,csv"]
    folder = predict(words, lambda p: people(20, 40))
    rows = lines(folder)
    assert [r["time"] for r in rows] == [0.0, 0.1, 0.2] and [p["id"] for p in rows[2]["persons"]] == [0, 1]
    assert len(list(video.frames(folder / "overlay.mp4"))) == 3
    entries = json.loads((folder / "coco.json").read_text())
    assert [e["image_id"] for e in entries] == [0, 0, 1, 1, 2, 2] and len(entries[0]["keypoints"]) == 14 * 3
    with open(folder / "joints.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 3 * 2 * 14 and {row["person"] for row in table} == {"0", "1"}
    assert float(table[0]["x"]) == rows[0]["persons"][0]["joints"][0][0]


def test_still_pictures_come_together_and_lines_in_their_order(tmp_path):
    for seed in range(20):
        save_image(tmp_path / f"in/{seed:02}.png", picture(seed))
    (tmp_path / "in/05.png").write_bytes(b"none")
    save_image(tmp_path / "more/a.png", picture(3))
    args = parser("about").parse_args(
        [str(tmp_path / "in"), str(tmp_path / "more"), "--out", str(tmp_path / "o"), "--no-draw"]
    )
    source, sizes = Source(args.source), []
    with pytest.raises(DataError, match="05.png"), Answers(args, source, LSP14, "house") as answers:
        for batch in answers.track(source):
            sizes.append(len(batch))
            for one in batch:
                answers.write(one, people(30))
    # what cannot be read, and another folder, end a batch
    assert sizes == [5, 14, 1]
    assert [row["index"] for row in lines(tmp_path / "o")] == list(range(21))


def test_many_persons_or_large_pictures_are_a_batch_of_their_own(tmp_path, monkeypatch):
    for seed in range(4):
        save_image(tmp_path / f"in/{seed}.png", picture(seed))
    rows = [f"{seed}.png,{x},1,9,20" for seed in range(4) for x in range(9)]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    words = [str(tmp_path / "in"), "--out", str(tmp_path / "o"), "--no-draw"]

    def sizes(*more):
        args = parser("about").parse_args([*words, *map(str, more)])
        source = Source(args.source)
        with Answers(args, source, LSP14, "house") as answers:
            return [len(batch) for batch in answers.track(source)]

    assert sizes("--boxes", tmp_path / "boxes.csv") == [2, 2] and sizes() == [4] and sizes("--track") == [1] * 4
    monkeypatch.setattr(predicting, "BATCH_BYTES", 2 * picture(0).nbytes)
    assert sizes() == [2, 2]


def test_an_unreadable_picture_is_said_and_the_rest_is_done(tmp_path, capsys):
    save_image(tmp_path / "a" / "1.png", picture(0))
    (tmp_path / "a" / "2.png").write_bytes(b"no picture")
    save_image(tmp_path / "a" / "3.png", picture(0))
    with pytest.raises(DataError, match="1 could not be read: 2.png"):
        predict([tmp_path / "a", "--out", tmp_path / "o"], lambda p: people(30))
    rows = lines(tmp_path / "o")
    assert [("error" in r, r["image"]) for r in rows] == [(False, "1.png"), (True, "2.png"), (False, "3.png")]
    assert "2.png" in capsys.readouterr().err


def test_nothing_is_written_before_the_first_answer(tmp_path):
    save_image(tmp_path / "a.png", picture(0))

    def answer(_):
        raise DataError("no such device")

    with pytest.raises(DataError, match="no such device"):
        predict([tmp_path / "a.png", "--format", "jsonl,coco,csv", "--out", tmp_path / "o"], answer)
    assert not list((tmp_path / "o").iterdir())


def test_nobody_is_where_a_box_does_not_touch_the_picture():
    boxes, image = (
        np.array([[5.0, 5, 20, 20], [64, 5, 20, 20], [-20, 5, 20, 20], [-20, -20, 21, 21]]),
        np.zeros((48, 64, 3)),
    )
    (found,) = People.by_picture(people(20, 40, 60, 9).joints, None, [(image, boxes)])
    assert found.person_score.tolist() == [1, 0, 0, 1] and np.isnan(found.joints[1:3]).all()


def test_a_box_that_begins_left_of_the_picture():
    for words in (["--boxes", "-5,3,20,20"], ["--boxes=-5,3,20,20"]):
        assert parser("about").parse_args(["a.png", *words]).boxes == ["-5,3,20,20"]


def test_names_that_are_no_utf8(tmp_path):
    (tmp_path / "a").mkdir()
    for name in (b"\xff\xfe.png", b"good.png"):
        save_image(tmp_path / "x.png", picture(0))
        os.replace(tmp_path / "x.png", os.fsencode(tmp_path / "a") + b"/" + name)
    folder = predict([tmp_path / "a", "--format", "jsonl,csv,coco", "--out", tmp_path / "o"], lambda p: people(30))
    assert {r["image"] for r in lines(folder)} == {"good.png", "\ufffd\ufffd.png"}
    assert len(list(folder.glob("*_pose.png"))) == 2


def test_answers_that_are_no_numbers(tmp_path):
    found = people(30)
    found.score[:] = np.nan
    with pytest.raises(DataError, match="clip_000000: .* not finite; its weights"):
        predict([clip(tmp_path / "clip.mp4"), "--out", tmp_path / "o"], lambda p: found)


def test_an_error_keeps_what_was_done_and_no_link_is_followed(tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "o" / "joints.jsonl").symlink_to(tmp_path / "precious")

    def fails(one):
        if one.index == 3:
            raise OSError("the camera is gone")
        return people(30)

    with pytest.raises(OSError, match="the camera"):
        predict([clip(tmp_path / "clip.mp4"), "--format", "jsonl,coco", "--out", tmp_path / "o"], fails)
    assert len(lines(tmp_path / "o")) == len(list(video.frames(tmp_path / "o" / "overlay.mp4"))) == 3
    assert len(json.loads((tmp_path / "o" / "coco.json").read_text())) == 3
    assert (tmp_path / "precious").read_text() == "mine"


def test_ctrl_c_keeps_what_there_is(tmp_path):
    def interrupted(one):
        if one.index == 2:
            raise KeyboardInterrupt
        return people(30)

    with pytest.raises(KeyboardInterrupt):
        predict([clip(tmp_path / "clip.mp4"), "--out", tmp_path / "o"], interrupted)
    assert len(lines(tmp_path / "o")) == 2


def test_a_followed_person_is_looked_for_where_it_was_last(tmp_path):
    looked = []

    def answer(one):
        looked.append(one.boxes.tolist())
        found = people(20 + one.index)
        if one.index == 3:
            found.score[:] = 0.0
        return found

    predict([clip(tmp_path / "clip.mp4"), "--out", tmp_path / "o", "--no-draw"], answer)
    whole = [[0.0, 0.0, 64.0, 48.0]]
    assert looked[0] == looked[4] == whole, "first, and after it was lost"
    assert all(box != whole for box in looked[1:4]) and looked[1][0][2] < 40


def test_smoothing_is_by_person_and_needs_a_video(tmp_path):
    save_image(tmp_path / "a.png", picture(0))
    with pytest.raises(DataError, match="--smooth"):
        predict([tmp_path / "a.png", "--smooth", "--out", tmp_path / "o"], lambda p: people(30))

    rng = np.random.default_rng(0)

    def shaking(one):
        order = (20, 44) if one.index % 2 else (44, 20)
        found = people(*order)
        return People.of(found.joints + rng.normal(0, 1, found.joints.shape), found.score)

    steps = {}
    for name in ("plain", "smooth"):
        more = ["--smooth"] if name == "smooth" else []
        folder = predict([clip(tmp_path / "c.mp4", 12), "--no-draw", *more, "--out", tmp_path / name], shaking)
        by_person: dict = {}
        for row in lines(folder):
            for one in row["persons"]:
                by_person.setdefault(one["id"], []).append([j[:2] for j in one["joints"]])
        assert {n: len(v) for n, v in by_person.items()} == {0: 12, 1: 12}
        steps[name] = np.mean([np.abs(np.diff(np.array(v), axis=0)).mean() for v in by_person.values()])
    assert steps["smooth"] < 0.8 * steps["plain"]


def test_boxes_typed_listed_and_whole(tmp_path):
    boxes, score = Boxes(None)("a.png", (64, 48))
    assert boxes.tolist() == [[0, 0, 64, 48]] and score.tolist() == [1]
    assert Boxes(["1,2,3,4", "-5,0,6,7"])("a.png", (64, 48))[0].tolist() == [[1, 2, 3, 4], [-5, 0, 6, 7]]
    (tmp_path / "b.csv").write_text("a.png,1,2,3,4\na.png,5,6,7,8,0.3\nb.png,0,0,9,9\n")
    assert Boxes([str(tmp_path / "b.csv")])("a.png", (9, 9))[1].tolist() == [1.0, 0.3]
    assert len(Boxes([str(tmp_path / "b.csv")], 0.5)("a.png", (9, 9))[0]) == 1
    (tmp_path / "head.csv").write_text("name,x,y,w,h\na.png,1,2,3,4\n")
    assert Boxes([str(tmp_path / "head.csv")])("a.png", (9, 9))[0].tolist() == [[1, 2, 3, 4]]
    detections = [
        {"image_id": 785, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9},
        {"image_id": 6, "category_id": 2, "bbox": []},
    ]
    (tmp_path / "d.json").write_text(json.dumps(detections))
    assert Boxes([str(tmp_path / "d.json")])("000000000785.jpg", (9, 9))[0].tolist() == [[1, 2, 3, 4]]
    annotations = [{"image_id": 3, "category_id": n, "bbox": [1, 1, n, n]} for n in (2, 7)]
    categories = [{"id": 7, "name": "dog"}, {"id": 2, "name": "person"}]  # the file's own numbers
    truth = {"images": [{"id": 3, "file_name": "x.jpg"}], "annotations": annotations, "categories": categories}
    (tmp_path / "t.json").write_text(json.dumps(truth))
    listed = Boxes([str(tmp_path / "t.json")])
    assert listed("x.jpg", (9, 9))[0].tolist() == [[1, 1, 2, 2]] and len(listed("y.jpg", (9, 9))[0]) == 0
    listed.check_used()
    unused = Boxes([str(tmp_path / "t.json")])
    unused("y.jpg", (9, 9))
    with pytest.raises(DataError, match="x.jpg"):
        unused.check_used()


@pytest.mark.parametrize(
    "text", ["1,2,3", "a,b,c,d", "0,0,0,5", "0,0,5,-1", "0,nan,5,5", "0,0,inf,5", "0,0,1e308,5", "-1e9,0,5,5", ""]
)
def test_text_that_is_no_box(text):
    with pytest.raises(DataError, match="--boxes"):
        parse_box(text)


@pytest.mark.parametrize(
    "content",
    ['{"a": 1', "[1]", '[{"image_id": 1}]', '[{"image_id": 1, "bbox": [1, 2, 3, null], "score": 1}]', '{"annotations": 3}',
     '[{"image_id": 1.5, "bbox": [1, 2, 3, 4]}]', '[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": "high"}]',
     '[{"image_id": 1, "category_id": 0, "bbox": [1, 2, 3, 4]}]', '[{"image_id": 1, "bbox": ["1", "2", "3", "4"]}]',
     '[{"image_id": 1, "bbox": [1, 2, 0, 4]}]', '[{"image_id": 1, "bbox": [1e308, 2, 1e308, 4]}]',
     '{"annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}', "[" * 100000],
)  # fmt: skip
def test_bad_box_files_are_named(content, tmp_path):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(DataError, match="bad.json"):
        Boxes([str(tmp_path / "bad.json")])


def test_crossing_persons_keep_their_numbers():
    tracker, numbers = Tracker(), []
    for frame in range(30):
        left, right = 50 + 10 * frame, 350 - 10 * frame
        found = People.of(np.array([person(left, 50, 20), person(right, 130, 20)]))
        if frame % 2:
            found = People.of(found.joints[::-1])
        ids = tracker(found, frame / 25).id.tolist()
        numbers.append(ids[::-1] if frame % 2 else ids)
    assert set(map(tuple, numbers)) == {(0, 1)}


def test_a_number_comes_back_within_a_second_and_not_later():
    tracker = Tracker()
    assert tracker(people(20), 0.0).id.tolist() == [0]
    assert tracker(people(), 0.5).id.tolist() == []
    assert tracker(people(20), 0.9).id.tolist() == [0]
    assert tracker(people(20), 3.0).id.tolist() == [1]


def test_crossing_persons_alike_found_again_keep_their_numbers():
    """Two persons of one pose meet at 8 body widths a second, and the one behind is hidden for half a second."""
    tracker, pose, numbers = Tracker(), person(0, 100, 20), set()
    for frame in range(50):
        time, seen = frame / 25, [40 + 160 * frame / 25, 340 - 160 * frame / 25]
        places = seen[:1] if 18 <= frame < 30 else seen
        found = tracker(People.of(np.array([pose + (x, 0) for x in places])), time)
        numbers |= {(n, found.id[n]) for n in range(len(places))}
    assert numbers == {(0, 0), (1, 1)}


def test_assignment_of_unequal_numbers():
    cost = np.array([[4.0, 1.0], [2.0, 5.0], [3.0, 3.0]])
    assert sorted(assign(cost)) == [(0, 1), (1, 0)] and sorted(assign(cost.T)) == [(0, 1), (1, 0)]
