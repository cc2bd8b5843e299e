"""``make run``: the Procfile's own processes, on other ports and with other data, and what it says to try."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from discovery.testing.ask import ask
from discovery.testing.cluster import HOST, alive, eventually, free_port

ROOT = Path(__file__).parents[2]
NAME = "hello.default.svc.cluster.local"


def elsewhere(procfile: str, data: Path) -> str:
    """The Procfile with every port replaced by a free one, everywhere alike, and the data in ``data``."""
    ports = sorted(set(re.findall(r"\b8[0-9]{3}\b", procfile)))
    for port, free in [(port, str(free_port())) for port in ports]:
        procfile = re.sub(rf"\b{port}\b", free, procfile)
    return procfile.replace(".run/", f"{data}/")


class Playground:
    """A running ``make run``; what it writes goes to a file."""

    def __init__(self, folder: Path) -> None:
        procfile, self._output, self.data = folder / "Procfile", folder / "output", folder / "data"
        procfile.write_text(elsewhere((ROOT / "Procfile").read_text(), self.data))
        with self._output.open("wb") as out:
            self.process = subprocess.Popen(
                ["make", "--no-print-directory", "run", f"PROCFILE={procfile}"],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def output(self) -> str:
        return self._output.read_text()

    def said(self, pattern: str, timeout_s: float = 60) -> re.Match[str]:
        """The first match of ``pattern`` in what it says."""
        return eventually(lambda: re.search(pattern, self.output()), timeout_s, f"{pattern!r} in {self._output}")

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def dns_ports(self) -> list[int]:
        return [int(port) for port in re.findall(r"\| ready id=.* dns=127.0.0.1:([0-9]+)", self.output())]


@pytest.fixture
def playground(tmp_path: Path) -> Iterator[Playground]:
    playground = Playground(tmp_path)
    yield playground
    with suppress(ProcessLookupError):
        os.killpg(playground.process.pid, signal.SIGKILL)
    playground.process.wait()


def test_what_it_prints_works_and_one_end_ends_nothing_else(playground: Playground, require_tool) -> None:
    require_tool("dig", "bind9-dnsutils")
    dig = playground.said(r"\| +(dig @[^\n]*)")[1]
    resolve = playground.said(r"\| +([^\n]*discovery resolve [^\n]*)")[1]
    assert _run(dig) == "127.0.0.1\n"
    assert _run(resolve) == f"{NAME}. 5 IN A 127.0.0.1\n"

    eventually(lambda: len(playground.dns_ports()) == 3, what="three ready lines")
    pid = int(_run(f"pgrep -o -f 'discovery serve --id n1 --data-dir {playground.data}'"))
    os.kill(pid, signal.SIGKILL)
    playground.said(r"n1 +\| ended \(SIGKILL\); the others run on")
    living = [port for port in playground.dns_ports() if _answers(port)]
    assert len(living) == 2

    playground.interrupt()
    playground.process.wait(40)
    assert re.search(r"n3 +\| ended \(exit code 0\)", playground.output())
    assert not alive(pid)


def _run(line: str) -> str:
    done = subprocess.run(shlex.split(line), cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _answers(port: int) -> bool:
    try:
        return ask((HOST, port), NAME, timeout_s=1).addresses == ["127.0.0.1"]
    except OSError:
        return False
