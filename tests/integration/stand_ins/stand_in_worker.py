"""Stands in for a DNS worker: notes how it was started, and sleeps."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

with Path(os.environ["NOTES"]).open("a") as file:
    print("worker", *sys.argv[1:], os.getpid(), file=file)
signal.pause()
