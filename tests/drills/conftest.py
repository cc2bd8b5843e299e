"""Fixtures of the drills: a cluster of real processes, and a voice for what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from discovery.testing.cluster import Cluster, running_cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print past pytest's capture: a drill's figures are its result."""

    def speak(text: str) -> None:
        with capsys.disabled():
            print(f"\n    {text}", flush=True)

    return speak
