"""Raft on PySyncObj: guarded core, own log, transport and snapshots, driven by one asyncio task.

The facade is :class:`Raft`; the codecs and the log are pure, the engine is without I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from discovery.raft.raft import Raft, RaftConfig

__all__ = ["Raft", "RaftConfig"]


def __getattr__(name: str) -> Any:
    """Import the facade only when it is asked for: simulator and pure rooms need neither asyncio nor sockets."""
    if name in __all__:
        from discovery.raft import raft

        return getattr(raft, name)
    raise AttributeError(name)
