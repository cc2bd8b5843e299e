"""The replicated state machine (pure): commands in, results, groups of changes and lease effects out."""

from __future__ import annotations

from discovery.store.snapshot import Snapshot
from discovery.store.state import Outcome, Store, Totals

__all__ = ["Outcome", "Snapshot", "Store", "Totals"]
