"""A service-discovery daemon: leases over HTTP, a Raft-replicated registry, authoritative DNS."""

__version__ = "0.1.0"
