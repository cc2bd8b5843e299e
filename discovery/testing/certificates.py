"""Certificates for tests: an authority in a folder, and files for each node, also such as must be refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from discovery import authority
from discovery.credentials import Files

_DAY_S: Final = 24 * 3600


class Authority:
    """An authority of its own; the files that it makes lie in ``folder``."""

    def __init__(self, folder: Path, name: str = "authority of the test") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.pair = authority.new_authority(name, 3650, time.time())
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.pair.cert)

    def make(self, node: str, *, days: int = 30, age_days: float = 0.0) -> authority.Pair:
        """A certificate for a node, made ``age_days`` ago."""
        return authority.issue(self.pair, authority.Subject(node), days, time.time() - age_days * _DAY_S)

    def files(self, node: str, *, name: str = "", days: int = 30, age_days: float = 0.0) -> Files:
        """Files of a node; made for the node ``name`` when that is given."""
        files = Files(str(self.folder / f"{node}.pem"), str(self.folder / f"{node}-key.pem"), str(self.ca))
        self.put(files, self.make(name or node, days=days, age_days=age_days))
        return files

    def put(self, files: Files, pair: authority.Pair) -> None:
        """Put another certificate in the place of one, each file at once."""
        for path, data in ((files.key, pair.key), (files.cert, pair.cert)):
            part = Path(f"{path}.part")
            part.write_bytes(data)
            part.chmod(0o600)
            part.rename(path)

    def options(self, node: str) -> tuple[str, ...]:
        """Options of ``discovery serve``, with files made for it."""
        return options(self.files(node))


def options(files: Files) -> tuple[str, ...]:
    """The same of given files."""
    return "--tls-cert", files.cert, "--tls-key", files.key, "--tls-ca", files.ca
