"""Which faults of a failing run matter: leave parts of the list out as long as it still fails (delta debugging).

A run without some of its faults is another run, so what it proves is only that these are enough. The smallest list is
printed with what each of its faults did and with the command that runs exactly that again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

RUNS_MAX: Final = 150


def shrink(numbers: Sequence[int], fails: Callable[[tuple[int, ...]], bool], runs_max: int = RUNS_MAX) -> list[int]:
    """A list of which no part can be left out, or the smallest found within ``runs_max`` runs.

    Args:
        numbers: a list that fails.
        fails: runs with a list; whether that fails in the same way.
    """
    left, parts, runs = list(numbers), 2, 0
    while left and runs < runs_max:
        size = max(1, len(left) // parts)
        for begin in range(0, len(left), size):
            rest = left[:begin] + left[begin + size :]
            runs += 1
            if runs <= runs_max and fails(tuple(rest)):
                left, parts = rest, max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts = min(len(left), 2 * parts)
    return left


def kind_of(error: BaseException) -> str:
    """What makes two failures alike: type and the words of the message, without names and numbers."""
    words = [word for word in str(error).split() if word.isalpha()]
    return f"{type(error).__name__} {' '.join(words[:6])}"
