"""What every test may ask for by name: ``require_root()`` and ``require_tool("dig", "bind9-dnsutils")``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from discovery.testing import needs


@pytest.fixture(name="require_root")
def _require_root() -> Callable[[], None]:
    return needs.require_root


@pytest.fixture(name="require_tool")
def _require_tool() -> Callable[[str, str], str]:
    return needs.require_tool
