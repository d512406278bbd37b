"""The C library's allocator, set for large tensors."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 1 << 30


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors instead of giving it back.

    glibc returns blocks of more than 32 MiB to the operating system as soon as they are freed, and
    takes the next ones page by page: of a network's step that can be a third of the time (see
    ``docs/results.md``). The same as the environment variables ``MALLOC_MMAP_THRESHOLD_`` and
    ``MALLOC_TRIM_THRESHOLD_``. It changes the whole process, so that commands call it and the
    library does not. Other C libraries are left as they are.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, 2 * _LARGEST - 1)
