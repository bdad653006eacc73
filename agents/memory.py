"""Freed memory stays with the process, so that the next minibatch need not ask the system for it again.

glibc hands blocks of more than 128 kB back to the system as they are freed. The activations of one minibatch of 256
Atari images came back as 9,000 page faults, an eighth of the time of the update.
"""

from __future__ import annotations

import ctypes
import functools

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST = 32 << 20
"""Bytes from which glibc always asks the system."""


@functools.cache
def keep_freed_memory() -> bool:
    """Asks glibc, once per process, to keep what is freed, and tells whether it will; elsewhere does nothing."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(M_MMAP_THRESHOLD, LARGEST))
