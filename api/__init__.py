"""HTTP API: registration, heartbeats, lookups, keys, operating (``docs/api.md``)."""

from __future__ import annotations

from discovery.api.app import Settings, make_app, serve

__all__ = ["Settings", "make_app", "serve"]
