"""What every predict.py does around its network: pictures in; JSON lines, other formats, drawings out.

    source = Source(args.source, args.recursive, args.limit)
    with Answers(args, source, estimator.skeleton) as answers:
        for batch in answers.track(source):
            for picture, people in zip(batch, estimator.predict_many([(p.image, p.boxes) for p in batch])):
                answers.write(picture, people)
    return answers.folder

joints.jsonl has one line a picture, the same in all houses: {"image", "index", "time" (s, videos), "size": [w, h],
"skeleton", "joint_names", "persons": [{"id", "box": [x, y, w, h], "score", "joints": [[x, y, score], ...]}]}, null
where a joint was not found. A picture that cannot be read has "error" instead, is warned of, and makes the exit code 2
when all others are done.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from common import video
from common.boxes import Boxes, Detector
from common.datasets.files import read_lines
from common.errors import DataError
from common.files import write_json, writing
from common.geometry import pad_box
from common.images import read_image, shown
from common.poses import box_of_joints
from common.predictions import People
from common.runs.options import PREDICTING, Parser
from common.skeletons import Skeleton
from common.tracking import MEMORY, Tracker

FORMATS = ("jsonl", "coco", "csv")
SHOWN = ("ids", "boxes", "scores", "hollow", "legend")
LOST = 0.1  # mean score under which a followed person counts as lost
FOLLOWED = 4  # joints above it that a followed person needs
AHEAD = 4  # image files that are read while the network looks at others
BATCH, BATCH_BYTES = 16, 64e6  # persons, or bytes of pictures, that are looked at together
_WHOLE = "each whole picture is taken as one person; for several, or for more detail, give --boxes or --detector FILE"


def parser(about: str | None, boxes: bool = True, but: Iterable[str] = ()) -> Parser:
    """The parser of a predict.py: SOURCE ... and the vocabulary's options, without those that have no meaning there.

    Without `boxes` for networks that find people themselves.
    """
    made = Parser(about)
    made.add_argument("source", nargs="+", metavar="SOURCE", help="images, folders, videos, a camera's number, URLs")
    made.options(*(n for n in PREDICTING if n not in but and (boxes or not n.startswith(("box", "detector")))))
    made.option("limit", type=int, metavar="N", text="the first N pictures only", default=None)
    return made


@dataclass
class Picture:
    """One picture of a source. `time` in seconds for videos; `image` (H,W,3) uint8 BGR, None for an unreadable one
    (`error`)."""

    name: str
    index: int
    time: float | None
    image: np.ndarray | None
    error: str = ""
    boxes: np.ndarray | None = None  # (n,4) to look at, None: the network finds people itself
    box_score: np.ndarray | None = None
    part: int = 0  # which video, camera, folder or row of image files it comes from


class Source:
    """The pictures that SOURCE ... name, at most `limit`. `moving`: videos and cameras only; `fps` of each part.
    DataError when one is not there."""

    def __init__(self, names: Sequence[str | Path], recursive: bool = False, limit: int | None = None):
        self.limit, self._parts = limit, []  # type: ignore[var-annotated]
        files = False
        for name in map(str, names):
            part, was_files = _part(name, recursive), files
            files = isinstance(part, list) and not Path(name).is_dir()
            if files and was_files:
                self._parts[-1] = [*self._parts[-1], *part]  # image files one after another are one row
            else:
                self._parts.append(part)
        self.moving = all(isinstance(part, video.Frames) for part in self._parts)
        self.fps = [part.fps if isinstance(part, video.Frames) else video.DEFAULT_FPS for part in self._parts]
        counts = [p.count if isinstance(p, video.Frames) else len(p) for p in self._parts]
        known = [c for c in counts if c is not None]
        self.count = min(sum(known), limit or sum(known)) if len(known) == len(counts) else None

    def __iter__(self) -> Iterator[Picture]:
        index = 0
        for number, part in enumerate(self._parts):
            pictures = _of_video(part) if isinstance(part, video.Frames) else _of_files(part)
            for picture in pictures:
                if self.limit is not None and index >= self.limit:
                    return
                picture.index, picture.part = index, number
                yield picture
                index += 1


def _part(name: str, recursive: bool) -> video.Frames | list[tuple[Path, str]]:
    """A video, or image files and the names that they go by: in a folder's folders with the way there."""
    path = Path(name)
    if path.is_dir():
        return [(file, shown(file.relative_to(path))) for file in video.pictures_in(path, recursive)]
    return [(path, shown(path.name))] if path.is_file() and video.is_picture(path) else video.frames(name)


def _of_files(files: list[tuple[Path, str]]) -> Iterator[Picture]:
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future] = deque()
        for file in files:
            waiting.append(pool.submit(_of_file, file))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _of_file(file: tuple[Path, str]) -> Picture:
    path, name = file
    try:
        return Picture(name, 0, None, read_image(path, whole=True, upright=True))
    except DataError as error:
        return Picture(name, 0, None, None, str(error))


def _of_video(frames: video.Frames) -> Iterator[Picture]:
    try:
        for name, image, time in frames:
            yield Picture(name, 0, time, image)
    except DataError as error:  # damaged behind the frames that came
        yield Picture("end of the video", 0, None, None, str(error))


class Answers:
    """The results of a predict.py as they come: joints.jsonl (and the formats of `--format`), drawings or overlay.mp4,
    in `--out`.

    `args` are those of `parser`. `padding`: share of the longer side around the joints by which the next look follows a
    person of a video; None where the network finds people itself. Ctrl-C keeps what there is. Memory does not grow.
    """

    def __init__(self, args, source: Source, skeleton: Skeleton, house: str, padding: float | None = 0.2):
        self.folder = Path(args.out) if args.out else Path("output") / house / "predict"
        self.skeleton, self.padding, self.fps = skeleton, padding, source.fps
        track = getattr(args, "track", None)
        self.follows = source.moving if track is None else track
        self.lost = False  # whether the followed person was lost in the last picture: the next look starts anew
        if args.smooth and not self.follows:
            what = "--smooth is for videos and cameras"
            raise DataError(f"{what}; --track says that a folder's pictures follow each other")
        self._boxes = Boxes(args.boxes, getattr(args, "box_threshold", 0.0)) if padding is not None else None
        self._detector = _detector(args) if padding is not None else None
        self._formats = _listed("format", getattr(args, "format", "jsonl"), FORMATS)
        self._show = _listed("show", getattr(args, "show", "ids"), (*SHOWN, "none"))
        self._draw, self._min_score = args.draw, getattr(args, "min_score", LOST)
        self._smoothing = args.smooth
        self._begin(0)
        self._film: video.VideoWriter | None = None
        self._drawn: set[str] = set()
        self.unread: list[str] = []
        self.stopped = self._said = False

    @property
    def follows_boxes(self) -> bool:
        """Whether the box of one picture follows from the person in the last; a file's or detector's boxes need not be
        the same persons' from picture to picture."""
        return self.follows and self._boxes is not None and self._boxes.file is None and self._detector is None

    def _begin(self, part: int) -> None:
        """Forget who was there: the next pictures have nothing to do with the last."""
        self._part, self.lost = part, part > 0
        self._tracker = Tracker() if self.follows else None
        self._smooth: dict[int, tuple[float, video.OneEuroFilter]] | None = {} if self._smoothing else None
        self._next: np.ndarray | None = None
        self._several = False

    def __enter__(self) -> Answers:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lines: TextIO | None = None  # until there is something to write
        return self

    def track(self, source: Source) -> Iterator[list[Picture]]:
        """The readable pictures with their boxes, behind a progress bar: one by one of videos and cameras or where
        persons are followed, else some together; unreadable ones are noted."""
        from tqdm import tqdm

        alone, batch = self.follows or source.moving, []  # type: ignore[var-annotated]
        try:
            for picture in tqdm(source, total=source.count, dynamic_ncols=True, disable=not sys.stderr.isatty()):
                if batch and (picture.image is None or picture.part != self._part):  # lines keep their order
                    yield batch
                    batch = []
                if picture.image is None:
                    self._note(picture)
                    continue
                if picture.part != self._part:
                    self._close_film(None)
                    self._begin(picture.part)
                self._find_boxes(picture)
                batch.append(picture)
                if alone or _is_full(batch):
                    yield batch
                    batch = []
            if batch:
                yield batch
        except KeyboardInterrupt:
            self.stopped = True

    def _note(self, picture: Picture) -> None:
        self.unread.append(picture.name)
        print(f"warning: {picture.error}", file=sys.stderr)
        line = {"image": picture.name, "index": picture.index, "error": picture.error}
        self._write_line(line)

    def _write_line(self, line: dict) -> None:
        with writing(path := self.folder / "joints.jsonl"):
            self._lines = self._lines or _fresh(path)
            self._lines.write(json.dumps(line) + "\n")
            self._lines.flush()

    def _find_boxes(self, picture: Picture) -> None:
        assert picture.image is not None
        height, width = picture.image.shape[:2]
        if self._next is not None:
            picture.boxes, picture.box_score = self._next, np.ones(len(self._next))
        elif self._detector is not None:
            picture.boxes, picture.box_score = self._detector(picture.image)
        elif self._boxes is not None:
            if self._boxes.whole and not self._said:
                print(_WHOLE, file=sys.stderr)
            self._said = True
            picture.boxes, picture.box_score = self._boxes(picture.name, (width, height))

    def write(self, picture: Picture, people: People) -> None:
        """The persons found in one picture."""
        if self._tracker:
            time = picture.index / self.fps[self._part] if picture.time is None else picture.time
            people = self._in_time(people, time)
        self._follow(people, picture)
        if np.isinf(people.joints).any() or (people.score.size and not np.isfinite(people.score).any()):
            what = f"{picture.name}: the network answers with numbers that are not finite"
            raise DataError(f"{what}; its weights are damaged or those of a training that diverged, give others")
        self._write_line(line_of(picture, people, self.skeleton))
        if self._draw:
            self._drawing(picture, people)

    def _in_time(self, people: People, time: float) -> People:
        assert self._tracker is not None
        people = self._tracker(people, time)
        if self._smooth is None:
            return people
        self._smooth = {n: f for n, f in self._smooth.items() if time - f[0] <= MEMORY}
        for row, number in enumerate(people.id.tolist()):
            smooth = self._smooth[number][1] if number in self._smooth else video.OneEuroFilter()
            people.joints[row] = smooth(people.joints[row], time)
            self._smooth[number] = (time, smooth)
        return people

    def _follow(self, people: People, picture: Picture) -> None:
        if not self.follows_boxes or self.padding is None:
            return
        assert picture.image is not None
        found = [row for row in range(len(people)) if _is_there(people, row, picture.image.shape)]
        self.lost = len(found) < len(people)
        if self.lost or not found:
            self._next = None
            return
        shown = np.where((people.score >= LOST)[..., None], people.joints, np.nan)
        self._next = pad_box(box_of_joints(shown.astype(np.float64)), ratio=self.padding)

    def _drawing(self, picture: Picture, people: People) -> None:
        from common.draw import beside, draw_pose, legend

        assert picture.image is not None
        # several persons in a colour each, which a followed one keeps
        ids = [row if number < 0 else number for row, number in enumerate(people.id.tolist())]
        texts = [f"#{number}" if "ids" in self._show and number >= 0 else "" for number in people.id.tolist()]
        if "scores" in self._show:
            texts = [f"{text} {score:.2f}".strip() for text, score in zip(texts, people.person_score)]
        self._several = len(ids) > 1 or (self._several and self.follows)
        how: dict = {"min_score": self._min_score, "numbers": ids if self._several else None}
        how |= {"boxes": people.box if "boxes" in self._show else None, "labels": texts if any(texts) else None}
        how |= {"hollow": "hollow" in self._show, "numbered": "legend" in self._show}
        image = draw_pose(picture.image, people.joints, self.skeleton, people.score, **how)
        if "legend" in self._show:
            image = beside(image, legend(self.skeleton, len(image), self._several))
        if picture.time is None:
            self._draw_file(picture.name, image)
            return
        if self._film is None:
            name = "overlay.mp4" if len(self.fps) == 1 else f"overlay_{picture.part + 1}.mp4"
            self._film = video.VideoWriter(self.folder / name, self.fps[picture.part]).__enter__()
        self._film.write(image, picture.time)

    def _draw_file(self, name: str, image: np.ndarray) -> None:
        from common.draw import save_image

        copies = (f"_{n}" if n else "" for n in itertools.count())  # two folders may have files of one name
        name = next(whole for copy in copies if (whole := f"{name}_pose{copy}.png") not in self._drawn)
        self._drawn.add(name)
        save_image(self.folder / name, image)

    def _close_film(self, kind, *error) -> None:
        if self._film is not None:
            self._film.__exit__(kind, *error)
        self._film = None

    def _write_formats(self) -> None:
        lines = []
        if self._formats - {"jsonl"}:
            lines = [line for _, line in read_lines(self.folder / "joints.jsonl") if "persons" in line]
        if "coco" in self._formats:
            write_json(self.folder / "coco.json", [entry for line in lines for entry in _coco_entries(line)])
        if "csv" in self._formats:
            heads = "image", "index", "person", "person_score", "joint", "x", "y", "score"
            with writing(path := self.folder / "joints.csv"), _fresh(path) as file:
                csv.writer(file).writerows([heads, *(row for line in lines for row in _csv_rows(line))])

    def __exit__(self, kind, *error) -> None:
        try:
            if self._lines:
                self._lines.close()
                self._write_formats()
        finally:
            self._close_film(kind, *error)
        if kind is not None:
            return
        if self._boxes is not None and not self.stopped:
            self._boxes.check_used()
        if self.stopped:
            raise KeyboardInterrupt(f"stopped; what was done is in {self.folder}")
        if self.unread:
            names = ", ".join(self.unread[:5]) + (" ..." if len(self.unread) > 5 else "")
            raise DataError(f"{len(self.unread)} could not be read: {names}; what could be is in {self.folder}")


def _is_full(batch: list[Picture]) -> bool:
    boxes = sum(1 if picture.boxes is None else len(picture.boxes) for picture in batch)
    size = sum(picture.image.nbytes for picture in batch if picture.image is not None)
    return boxes >= BATCH or size >= BATCH_BYTES


def _fresh(path: Path) -> TextIO:
    path.unlink(missing_ok=True)  # a link there leads elsewhere
    return open(path, "w", encoding="utf-8", newline="")


def _detector(args):
    path = getattr(args, "detector", None)
    if path is None:
        return None
    if args.boxes:
        raise DataError("--boxes and --detector both say where the persons are; give one of them")
    found = Detector(path, args.detector_threshold, getattr(args, "device", None), getattr(args, "threads", None))
    print(f"{path}: {found.layout}, persons are class {found.person}", file=sys.stderr)
    return found


def _listed(option: str, text: str, known: tuple[str, ...]) -> set[str]:
    wanted = set(text.split(","))
    if wanted - set(known):
        raise DataError(f"--{option} {text}: write {', '.join(known)}, comma-separated")
    return wanted


def _is_there(people: People, row: int, shape: tuple[int, ...]) -> bool:
    joints, score = people.joints[row], people.score[row]
    found = np.isfinite(joints).all(-1) & (score >= LOST)
    if found.sum() < min(FOLLOWED, len(joints)) or score.mean() < LOST:
        return False
    low, high = joints[found].min(0), joints[found].max(0)
    inside = (high > 0).all() and low[0] < shape[1] and low[1] < shape[0]
    return bool(inside and (high - low).max() >= 8)


def _plain(value: float, digits: int) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None


def line_of(picture: Picture, people: People, skeleton: Skeleton) -> dict:
    """One picture as joints.jsonl has it."""
    assert picture.image is not None
    height, width = picture.image.shape[:2]
    persons = [
        {
            "id": int(people.id[row]),
            "box": [_plain(v, 2) for v in people.box[row]],
            "score": _plain(people.person_score[row], 4),
            "joints": [
                [_plain(x, 2), _plain(y, 2), _plain(s, 4)] if np.isfinite((x, y)).all() else None
                for (x, y), s in zip(people.joints[row], people.score[row])
            ],
        }
        for row in range(len(people))
    ]
    when = {} if picture.time is None else {"time": round(picture.time, 6)}
    names = {"skeleton": skeleton.name, "joint_names": list(skeleton.joints)}
    return {"image": picture.name, "index": picture.index, **when, "size": [width, height], **names, "persons": persons}


def _csv_rows(line: dict) -> Iterator[tuple]:
    for person_number, person in enumerate(line["persons"]):
        number = person["id"] if person["id"] >= 0 else person_number
        for name, joint in zip(line["joint_names"], person["joints"]):
            yield line["image"], line["index"], number, person["score"], name, *(joint or (None, None, None))


def _coco_entries(line: dict) -> Iterator[dict]:
    number = re.search(r"(\d+)$", Path(line["image"]).stem)
    for person in line["persons"]:
        yield {
            "image_id": int(number[1]) if number else line["image"],
            "file_name": line["image"],
            "category_id": 1,
            "keypoints": [v if v is not None else 0.0 for joint in person["joints"] for v in joint or (0.0, 0.0, 0.0)],
            "bbox": person["box"],
            "score": person["score"],
        }
