"""Pictures: EXIF's orientation in every format, sizes, and databases that are damaged."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest

from common.errors import DataError
from common.images import image_size, read_image, reference, write_lmdb


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_pictures_as_a_viewer_shows_them(tmp_path, suffix, turn):
    """EXIF's orientation in every format: a mark in a corner comes where the standard says."""
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:8, :12, 2] = 255
    exif = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x112, 3, 1, turn, 0) + bytes(4)
    data = cv2.imencode(suffix, picture, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    if suffix == ".jpg":
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + data[2:]
    elif suffix == ".png":
        chunk = b"eXIf" + exif
        data = data[:33] + struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    elif suffix == ".webp":
        sized = b"VP8X" + struct.pack("<IIIH", 10, 8, 29 | 19 << 24, 0)
        data = b"WEBP" + sized + data[12:] + b"EXIF" + struct.pack("<I", len(exif)) + exif
        data = b"RIFF" + struct.pack("<I", len(data)) + data
    else:  # a directory with one entry more, at the end
        (first,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, first)
        entries = [data[first + 2 + 12 * k :][:12] for k in range(count)] + [exif[10:22]]
        entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
        data += bytes(len(data) % 2)
        data = (
            data[:4]
            + struct.pack("<I", len(data))
            + data[8:]
            + struct.pack("<H", count + 1)
            + b"".join(entries)
            + bytes(4)
        )
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    assert read_image(path).shape == (20, 30, 3) or suffix == ".tif"  # OpenCV turns every TIFF
    shown = read_image(path, whole=True, upright=True)
    assert shown.shape == ((20, 30, 3) if turn < 5 else (30, 20, 3))
    bottom, right = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[turn]
    assert shown[-3 if bottom else 3, -3 if right else 3, 2] > 200


@pytest.mark.parametrize("at, value", [(8, 0x8000000D), (16, 1 << 20), (33, 0x7FFFFFF0)])
def test_a_png_that_asks_for_gigabytes(tmp_path, monkeypatch, at, value):
    """In its header's length, its width, or a later part's length: refused before OpenCV takes the memory."""
    data = bytearray(cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes())
    data[at : at + 4] = struct.pack(">I", value)
    (tmp_path / "a.png").write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV was asked"))
    with pytest.raises(DataError, match="cannot be decoded"):
        read_image(tmp_path / "a.png")


def test_a_database_that_is_cut_off(tmp_path):
    write_lmdb(tmp_path / "db", ((f"{k}.jpg", bytes(5000)) for k in range(100)))
    data = tmp_path / "db" / "data.mdb"
    os.truncate(data, data.stat().st_size // 2)
    with pytest.raises(DataError, match="its end is missing"):
        read_image(reference(tmp_path / "db", "7.jpg"))


def test_image_sizes(tmp_path):
    image = np.random.RandomState(0).randint(0, 256, (37, 53, 3)).astype(np.uint8)
    for suffix in ("jpg", "png", "bmp"):
        cv2.imwrite(str(tmp_path / f"a.{suffix}"), image)
        assert image_size(str(tmp_path / f"a.{suffix}")) == (53, 37)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:10])
    with pytest.raises(DataError, match=r"b\.jpg"):
        image_size(str(tmp_path / "b.jpg"))


@pytest.mark.parametrize("name", ["a\0b.jpg", "a\ud800.jpg", "a\udcff.jpg"])
def test_names_that_no_file_can_have(name):
    with pytest.raises(DataError, match="does not exist"):
        read_image(name)
