"""Raft on PySyncObj: guarded core, own log, transport and snapshots, driven by one asyncio task.

The facade is :class:`Raft`; the codecs and the log are pure, the engine is without I/O.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from discovery.raft.raft import Raft, RaftConfig

__all__ = ["Raft", "RaftConfig"]

# PySyncObj imports cryptography for an encryption of its own where it finds that library: 9 MB and 15 ms of every node
# process for what is never called. It finds this in its place.
_unused = ModuleType("pysyncobj.encryptor", "Nothing: peers speak TLS.")
_unused.HAS_CRYPTO, _unused.getEncryptor = False, None  # type: ignore[attr-defined]
sys.modules.setdefault("pysyncobj.encryptor", _unused)

# It also puts a socket.inet_ntop for Windows in the place of everybody's: every call in the process would raise.
sys.modules.setdefault("pysyncobj.win_inet_pton", ModuleType("pysyncobj.win_inet_pton", "Nothing: sockets have it."))


def __getattr__(name: str) -> Any:
    """Import the facade only when it is asked for: simulator and pure rooms need neither asyncio nor sockets."""
    if name in __all__:
        from discovery.raft import raft

        return getattr(raft, name)
    raise AttributeError(name)
