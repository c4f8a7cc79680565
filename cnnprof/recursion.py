"""Room for recursion: a module's tree may be as deep as Python lets its forward pass go. Knows no modules."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

FRAMES = 8
"""Python's frames for each one of a forward pass: a level of the tree takes 4 to run, 12 to copy, 5 to be watched."""

_lock = threading.Lock()
_entered, _limit = 0, sys.getrecursionlimit()


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Raise Python's recursion limit for walks through a module's tree, once however often it is entered."""
    global _entered, _limit
    with _lock:
        if not _entered:
            _limit = sys.getrecursionlimit()
            sys.setrecursionlimit(FRAMES * _limit)
        _entered += 1
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            if not _entered:
                sys.setrecursionlimit(_limit)
