"""What a test needs of its machine: root, a Debian tool. Without it the test is skipped and says what is missing.

With ``DISCOVERY_CI=1`` (set by ``.ci/run``) nothing may be missing: then the same want is a failure.
"""

from __future__ import annotations

import os
import shutil
import unittest

CI_VARIABLE = "DISCOVERY_CI"


def require_root() -> None:
    """Skip the test unless it runs as root (network namespaces, mounts, ports under 1024)."""
    if os.geteuid() != 0:
        _missing("needs root")


def require_tool(name: str, package: str) -> str:
    """The path of the program ``name``; skip the test when it is not there, naming its Debian ``package``."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        _missing(f"needs {name}: apt-get install {package}")
    return path or ""


def _missing(reason: str) -> None:
    """Skip, or fail in CI. pytest takes :class:`unittest.SkipTest` for its own."""
    if os.environ.get(CI_VARIABLE) == "1":
        raise AssertionError(f"{reason} ({CI_VARIABLE}=1 allows no skipping)")
    raise unittest.SkipTest(reason)
