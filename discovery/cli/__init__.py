"""The command line ``discovery`` (CONTRACT section 1): :mod:`root` holds the group, each other module its commands."""

from __future__ import annotations


def main() -> None:
    """The entry point of the program; ends the process with the exit code."""
    from discovery.cli.root import group  # not at the head: whoever imports one command's module needs not all

    group(prog_name="discovery")
