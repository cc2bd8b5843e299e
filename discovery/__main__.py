"""``python -m discovery``: the command line."""

from __future__ import annotations

from discovery.cli import main

if __name__ == "__main__":
    main()
