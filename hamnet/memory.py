"""How much memory there is, and how much of it this process takes."""

import os
import resource
from contextlib import suppress
from pathlib import Path

import torch

from hamnet.errors import HamnetError


def check_memory(wanted: float, what: str) -> None:
    """Refuse what does not fit into memory, before it is begun.

    Args:
        wanted: bytes.
        what: for the message.

    Raises:
        HamnetError: more than what is free.
    """
    free = _available()
    if wanted > free:
        raise HamnetError(
            f"{what} takes about {wanted / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free"
        )


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process may take on a device, with those that it holds."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return _available() + _status("VmRSS")


def reset_peak(device: torch.device) -> None:
    """Let `peak_memory` count from here on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # else the peak of the process's whole life is seen
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has held on a device since `reset_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _available() -> int:
    """Return the bytes that this process may take beside those that it holds.

    The least of what the system has and what limits of the process and its container leave. Where
    the system does not say what is free, all of its memory counts.
    """
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    of_system = _proc("/proc/meminfo", "MemAvailable")  # with what caches would give back
    free = [of_system or os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free.append(limit - _status("VmSize"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(path).exists() and (text := Path(path).read_text().strip()).isdigit():
            free.append(int(text) - _status("VmRSS"))
    return max(min(free), 0)


def _status(key: str) -> int:
    return _proc("/proc/self/status", key)


def _proc(path: str, key: str) -> int:
    """Return an entry of a file under /proc in bytes, 0 where there is none."""
    if not Path(path).exists():
        return 0
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith(key + ":")), 0)
