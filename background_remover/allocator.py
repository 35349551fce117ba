"""How a whole process keeps memory: for an application to decide, not for the library that it uses."""

from __future__ import annotations

import ctypes
import platform
import sys

MALLOC_INFO = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


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


def heap_memory() -> tuple[int, int]:
    """Bytes that glibc has in hand, and how many of them are free; (0, 0) where nothing says."""
    try:
        told = ctypes.CDLL("libc.so.6").mallinfo2
    except (OSError, AttributeError):  # another C library, or one of before 2021
        return 0, 0
    told.restype = _MallocInfo
    found = told()
    return int(found.uordblks + found.fordblks), int(found.fordblks)


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in MALLOC_INFO.split())


def _has_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
