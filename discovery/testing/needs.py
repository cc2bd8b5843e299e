"""What a test needs of its machine: root, a Debian tool. Without it the test is skipped and says what is missing.

In CI nothing may be missing: ``tests/conftest.py`` makes every skip a failure there.
"""

from __future__ import annotations

import os
import shutil
import unittest


def require_root() -> None:
    """Skip the test unless it runs as root (network namespaces, mounts, ports under 1024)."""
    if os.geteuid() != 0:
        raise unittest.SkipTest("needs root")


def require_tool(name: str, package: str) -> str:
    """The path of the program ``name``; skip the test when it is not there, naming its Debian ``package``."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        raise unittest.SkipTest(f"needs {name}: apt-get install {package}")
    return path
