from __future__ import annotations

import io
import subprocess
import sys

from PIL import Image

from imageset.decoding.file_type import read_webp_size


def test_the_size_of_a_webp_is_known_before_pillow_makes_room_for_it() -> None:
    picture = Image.effect_noise((70, 50), 80).convert("RGB")
    for options in ({"lossless": True}, {"quality": 80}, {"quality": 80, "exif": b"Exif\0\0MM\0*\0\0\0\b\0\0"}):
        file = io.BytesIO()
        picture.save(file, "WEBP", **options)
        assert read_webp_size(file.getvalue()) == (70, 50)
    assert read_webp_size(b"RIFF\x1a\0\0\0WEBPVP8X\x0a") is None
    code = (
        "import resource\n"
        "from imageset.decoding.decoder import decode\n"
        "from imageset.decoding.spec import DecodeSpec\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, -1))\n"
        "data = bytes.fromhex('524946461a000000574542505650384c0e0000002ffebfff0f071011fd0f4444ff03')\n"
        "try: decode(data, DecodeSpec(32, 3, 'crop', 'bilinear', 178_956_970))\n"
        "except Exception as refused: print(refused)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "bomb: 16383 x 16383 pixels; the limit is 178,956,970\n"
