import platform
import subprocess
import sys

import pytest

from tests.helpers.project import ROOT

CODE = """
import resource, sys
import torch
from imageset.utils.memory import keep_large_blocks
if sys.argv[1] == "keep":
    assert keep_large_blocks()
for _ in range(10):
    torch.empty(1 << 24).fill_(1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.empty(1 << 24).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", CODE, how], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_a_freed_block_is_used_again_without_the_kernel():
    assert page_faults("keep") * 10 < page_faults("leave")
