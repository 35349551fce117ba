"""How a whole process keeps memory, for an application to decide and not for its library; and what a machine has."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path


def keep_freed_memory() -> None:
    """Tell glibc not to give freed memory back; call it first of all, in a program that is about running the network.

    Else every activation is mapped and faulted in anew, which is a third of the forward's time in fp32. All threads
    then share one arena, else each thread that ever ran a forward would keep a gigabyte of its own. It holds for
    everything in the process and can't be undone. A no-op with another C library.
    """
    if not _has_glibc():
        return
    m_trim_threshold, m_top_pad, m_mmap_max, m_arena_max = -1, -2, -4, -8  # from malloc.h
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    mallopt(m_arena_max, 1)
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_top_pad, 64 << 20)


def trim_memory() -> None:
    """Give what is free back all the same, as after a photo far above the usual size; a no-op elsewhere."""
    if _has_glibc():
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident_memory() -> int:
    """Bytes of memory that this process has of its own just now; 0 where nothing says."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def total_memory() -> int:
    """Bytes of memory that this machine, or the container that it is, has; 4 GB where nothing says."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 4_000_000_000
    try:
        with open("/sys/fs/cgroup/memory.max") as file:  # noqa: PTH123
            return min(total, int(file.read()))
    except (OSError, ValueError):
        return total


def available_cores() -> int:
    """The processors that this process may use, also where a container has a part of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # "max" instead of microseconds, or no such file
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def _has_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
