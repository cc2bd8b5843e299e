from __future__ import annotations

import os
import subprocess
import sys
import unittest
from pathlib import Path

import pytest

from discovery.testing import needs

CONFTEST = Path(__file__).parents[2] / "conftest.py"


def test_a_tool_that_is_there_is_found() -> None:
    assert Path(needs.require_tool("sh", "dash")).name == "sh"


def test_a_tool_that_is_not_there_skips_and_names_its_package() -> None:
    with pytest.raises(unittest.SkipTest, match="needs nothing-like-this: apt-get install some-package"):
        needs.require_tool("nothing-like-this", "some-package")


def test_root_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    needs.require_root()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(unittest.SkipTest, match="root"):
        needs.require_root()


@pytest.mark.parametrize(("ci", "outcome"), [("0", "1 skipped"), ("1", "1 failed")])
def test_a_skip_is_a_failure_in_ci_only(tmp_path: Path, ci: str, outcome: str) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_it.py").write_text(
        "def test_it(require_tool):\n    require_tool('no-such-tool', 'some-package')\n"
    )
    line = [sys.executable, "-P", "-m", "pytest", "-rs", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        line, cwd=tmp_path, env={**os.environ, "DISCOVERY_CI": ci}, capture_output=True, text=True, check=False
    )
    assert outcome in done.stdout
    assert "apt-get install some-package" in done.stdout
