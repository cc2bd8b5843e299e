"""Raft on PySyncObj: guarded core, own log, transport and snapshots."""
