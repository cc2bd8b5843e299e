"""What every test may ask for by name: ``require_root()`` and ``require_tool("dig", "bind9-dnsutils")``.

Without it the test is skipped. In CI, where everything is installed, that is a failure: it would hide what is untested.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

import hypothesis
import pytest

import discovery.raft  # noqa: F401 - before any test has PySyncObj imported as it is: it would patch socket
from discovery.testing import needs

CI = os.environ.get("DISCOVERY_CI") == "1"  # set by .ci/run

hypothesis.settings.register_profile("house", deadline=None, print_blob=True)  # a busy machine is no counterexample
hypothesis.settings.load_profile("house")


@pytest.fixture(name="require_root")
def _require_root() -> Callable[[], None]:
    return needs.require_root


@pytest.fixture(name="require_tool")
def _require_tool() -> Callable[[str, str], str]:
    return needs.require_tool


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """In CI, whoever skips because he needs something of the machine fails."""
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2])
        if re.search(r"\bneeds\b|\binstall", reason):
            report.outcome = "failed"
            report.longrepr = f"DISCOVERY_CI=1 does not allow this skip: {reason}"
    return report
