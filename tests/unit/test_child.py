"""What is told of a process that is started again."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import cast

from discovery.child import Child


def test_a_child_that_ends_again_and_again_says_how_long_it_is_held_back() -> None:
    child = Child("dns-0", lambda child: cast("subprocess.Popen[bytes]", SimpleNamespace(pid=7, returncode=None)))
    held = []
    for number in range(4):
        child.start(float(number))
        assert child.told(float(number)) == ("dns-0", number + 1, 0.0)
        child.died(1, float(number), again=True)
        held.append(child.told(float(number))[2])
    assert held == [0.0, 0.1, 0.2, 0.4]
