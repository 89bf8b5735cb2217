"""Malformed files, made by damaging photographs, and folders whose entries are no files."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np

from tests.helpers.high_bit_depth import encode_png16
from tests.helpers.odd_images import make_odd_files
from tests.helpers.photographs import crop_photograph, encode_photograph

FORMATS = {
    **{"jpg": "JPEG", "png": "PNG", "gif": "GIF", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP", "ppm": "PPM"},
    **{"jp2": "JPEG2000", "avif": "AVIF"},
}
SHARES = (0.02, 0.3, 0.6, 0.95)  # of a file: where it is cut, and where bytes are changed


def make_malformed_files() -> dict[str, bytes]:
    """{name: bytes}: sound files of every format, the same cut and changed, and such as were never pictures."""
    found = {}
    for seed, (ending, kind) in enumerate(FORMATS.items()):
        whole = encode_photograph(crop_photograph("china.jpg", seed, 48), kind)
        found[f"whole/{ending}.{ending}"] = whole
        for share in SHARES:
            place = int(share * len(whole))
            found[f"cut/{share}.{ending}"] = whole[:place]
            found[f"changed/{share}.{ending}"] = whole[:place] + b"\xff\x00\xa5\x5a" + whole[place + 4 :]
        found[f"late/{ending}.{ending}"] = whole[10:]
    png = encode_photograph(crop_photograph("flower.jpg", 0), "PNG")
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + png[24:29]
    large = png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
    found |= {f"odd/{name}": data for name, data in make_odd_files().items()}
    return found | {
        "other/empty.jpg": b"",
        "other/zeros.jpg": bytes(1000),
        "other/text.jpg": b"a text and no picture\n" * 20,
        "other/page.png": b"<!DOCTYPE html><html><body>404</body></html>",
        "other/drawing.jpg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "other/video.jpg": b"\0\0\0\x18ftypmp42" + bytes(500),
        "other/large.png": large,
        "other/pixel.png": encode_png16(np.zeros((1, 1), np.uint16)),
        "other/named.jpg": png,
        "other/notes.txt": b"no picture by its name",
    }


def write_malformed_files(folder: Path) -> Path:
    for name, data in make_malformed_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


PLAIN_NAMES = (
    *(
        "a b c.jpg",
        "日本語 ñ é 🐈.jpg",
        "cafe\u0301.jpg",
        "caf\u00e9.jpg",
        "new\nline.jpg",
        "tab\there.jpg",
        "-rf.jpg",
    ),
    *(
        "quote'\"`$(id).jpg",
        "=cmd|' C calc'!A0.jpg",
        "a,b;c.jpg",
        "x" * 251 + ".jpg",
        "x.jpg.",
        "x.jpg ",
        "CON.jpg",
    ),
    *("dup.jpg", "DUP.JPG", "rtl\u202egpj.exe.jpg", "%2e%2e%2fx.jpg", "100%s%n.jpg", "noperm.jpg", "readonly.jpg"),
)
LINKS = {
    **{"loop_a.jpg": "loop_b.jpg", "loop_b.jpg": "loop_a.jpg", "dangling.jpg": "/nonexistent/x.jpg"},
    **{"escape.jpg": "/etc/passwd", "rootlink": "/", "cyc/a/up": "..", "devzero.jpg": "/dev/zero"},
    "stdin.jpg": "/dev/stdin",
}


def write_traps(folder: Path, data: bytes) -> None:
    """Write copies of a picture under odd names and deep down, 8 links, a FIFO, a socket, a hidden file, a file of
    20 GB of nothing."""
    (folder / "cyc" / "a").mkdir(parents=True)
    (folder / "dir.jpg").mkdir()
    for name in (*PLAIN_NAMES, ".hidden.jpg"):
        (folder / name).write_bytes(data)
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff\xfeutf8.jpg")).write_bytes(data)
    for name, target in LINKS.items():
        (folder / name).symlink_to(target)
    os.link(folder / "dup.jpg", folder / "hardlink.jpg")
    os.mkfifo(folder / "fifo.jpg")
    with (folder / "sparse20G.jpg").open("wb") as file:
        file.truncate(20 << 30)
    os.utime(folder / "a b c.jpg", (0, 0))
    os.utime(folder / "CON.jpg", (4e9, 4e9))
    with contextlib.chdir(folder), socket.socket(socket.AF_UNIX) as bound:
        bound.bind("sock.jpg")  # an address holds at most 107 characters
    deep = folder / "deep" / "/".join(["d" * 70] * 40)
    deep.mkdir(parents=True)
    (deep / "f.jpg").write_bytes(data)
    (folder / "noperm.jpg").chmod(0)
    (folder / "readonly.jpg").chmod(0o444)
