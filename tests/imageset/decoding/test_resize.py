from __future__ import annotations

import subprocess
import sys


def test_libtorch_without_its_python_package_resizes_as_torch_does_and_imports_nothing() -> None:
    script = (
        "import sys, numpy as np\n"
        "from imageset.decoding import resize\n"
        "pixels = np.random.default_rng(0).integers(0, 256, (61, 47, 3), np.uint8)\n"
        "for some in (pixels, pixels[:, :, :1], pixels.transpose(1, 0, 2)[::-1]):\n"
        "    for mode in resize.RESIZE_MODES:\n"
        "        for width, height in ((16, 16), (90, 33), (1, 2)):\n"
        "            ours, theirs = np.empty((2, height, width, some.shape[2]), np.uint8)\n"
        "            resize.resize_antialiased(some, mode, ours)\n"
        "            resized.append((ours, np.ascontiguousarray(some), mode, theirs))\n"
        "assert 'torch' not in sys.modules\n"
        "for ours, *arguments in resized:\n"
        "    resize._resize_with_torch(*arguments)\n"
        "    np.testing.assert_array_equal(ours, arguments[-1])\n"
        "print(len(resized))\n"
    )
    done = subprocess.run([sys.executable, "-c", "resized = []\n" + script], capture_output=True, text=True)
    assert done.stdout == "18\n", done.stderr
