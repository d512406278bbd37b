"""Freed memory stays with the process, where the C library is glibc."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from hamnet.allocator import keep_freed_memory

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
large = np.ones(12_500_000)  # 100 MB
del large
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize(("word", "kept"), [("keep", True), ("leave", False)])
def test_freed_memory(word, kept):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True
    )
    assert (int(done.stdout) > 80) == kept
