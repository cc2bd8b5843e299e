"""Who is proven to be a node of the Procfile's runner, on a ``/proc`` of our own: one missing proof, and nobody is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from discovery.drill.actor import CannotAct
from discovery.drill.local import LocalActor, Processes, is_node, is_runner

RUNNER = ("python3", "-m", "discovery.testing.playground", "Procfile")
NODE = ("/venv/bin/python", "/venv/bin/discovery", "serve", "--id", "n1", "--http", "127.0.0.1:8500")
URL = "http://127.0.0.1:8500"
LISTEN, ESTABLISHED = "0A", "01"
CATCHES_USR1 = 1 << 9


class Proc:
    """A folder like ``/proc``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "net").mkdir(parents=True)
        self.sockets: list[str] = []
        self.table()

    def table(self) -> None:
        lines = ["  sl  local_address rem_address   st", *self.sockets]
        (self.root / "net/tcp").write_text("\n".join(lines) + "\n")

    def socket(self, address: str, inode: int, state: str = LISTEN) -> None:
        number = len(self.sockets)
        self.sockets.append(f"{number}: {address} 00000000:0000 {state} 0:0 00:0 0 0 0 {inode} 1 0")
        self.table()

    def process(
        self, pid: int, parent: int, arguments: tuple[str, ...], *inodes: int, state: str = "S", caught: int = 0
    ) -> None:
        folder = self.root / str(pid)
        (folder / "fd").mkdir(parents=True)
        after = " ".join([state, str(parent), *["0"] * 17, str(1000 + pid)])
        (folder / "stat").write_text(f"{pid} (a (strange) name) {after} 0 0\n")
        (folder / "cmdline").write_bytes("\0".join(arguments).encode() + b"\0")
        (folder / "status").write_text(f"Name:\tx\nSigCgt:\t{caught:016x}\n")
        for inode in inodes:
            (folder / "fd" / str(inode)).symlink_to(f"socket:[{inode}]")


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    proc = Proc(tmp_path / "proc")
    proc.socket("0100007F:2134", 77)
    proc.process(10, 1, RUNNER, caught=CATCHES_USR1)
    return proc


def test_a_node_that_everything_proves_is_found_with_its_children(proc: Proc) -> None:
    proc.process(11, 10, NODE, 76, 77)
    proc.process(12, 11, ("python", "-m", "discovery.node"))
    proc.process(13, 11, ("python", "-m", "discovery.dns.worker"), state="Z")
    processes = Processes(proc.root)
    found = processes.supervisor("n1", URL)
    assert found.pid == 11
    assert [process.pid for process in processes.family(found)] == [11, 12]
    assert LocalActor({"n1": URL}, processes).processes == {"n1": 11}


@pytest.mark.parametrize(
    ("arguments", "inode", "parent", "url", "said"),
    [
        (NODE, 99, 10, URL, "no `discovery serve --id n1` of this user listens"),
        (("vim", "serve", "--id", "n1"), 77, 10, URL, "no `discovery serve"),
        ((*NODE[:4], "n2"), 77, 10, URL, "no `discovery serve"),
        (NODE, 77, 1, URL, "was not started by `make run`"),
        (NODE, 77, 10, "http://127.0.0.1:8501", "listens at http://127.0.0.1:8501"),
        (NODE, 77, 10, "http://10.0.0.1:8500", "not on loopback"),
        (NODE, 77, 10, "http://localhost:8500", "not on loopback"),
    ],
    ids=["another socket", "another program", "another id", "another parent", "another port", "another host", "a name"],
)
def test_one_missing_proof_and_it_is_none(
    proc: Proc, arguments: tuple[str, ...], inode: int, parent: int, url: str, said: str
) -> None:
    proc.process(11, parent, arguments, inode)
    with pytest.raises(CannotAct, match=said):
        Processes(proc.root).supervisor("n1", url)


def test_a_client_of_the_node_is_not_the_node(proc: Proc) -> None:
    proc.sockets.clear()
    proc.socket("0100007F:2134", 77, ESTABLISHED)
    proc.process(11, 10, NODE, 77)
    with pytest.raises(CannotAct):
        Processes(proc.root).supervisor("n1", URL)


def test_processes_of_another_user_are_none_of_ours(proc: Proc) -> None:
    proc.process(11, 10, NODE, 77)
    with pytest.raises(CannotAct):
        Processes(proc.root, user=os.getuid() + 1).supervisor("n1", URL)


def test_a_runner_that_the_signal_would_kill_is_none(proc: Proc) -> None:
    (proc.root / "10/status").write_text("SigCgt:\t0000000000000000\n")
    proc.process(11, 10, NODE, 77)
    with pytest.raises(CannotAct, match="cannot start its processes again"):
        LocalActor({"n1": URL}, Processes(proc.root))


def test_nodes_of_two_runners_are_no_cluster(proc: Proc) -> None:
    proc.process(20, 1, RUNNER, caught=CATCHES_USR1)
    proc.process(11, 10, NODE, 77)
    proc.socket("0100007F:2135", 78)
    proc.process(12, 20, (*NODE[:4], "n2"), 78)
    with pytest.raises(CannotAct, match="several runners"):
        LocalActor({"n1": URL, "n2": "http://127.0.0.1:8501"}, Processes(proc.root))


@pytest.mark.parametrize(
    ("arguments", "yes"),
    [
        (NODE, True),
        (("discovery", "serve", "--id", "n1"), True),
        (("strace", "-f", "discovery", "serve", "--id", "n1"), True),
        (("discovery", "drill", "serve", "--id", "n1"), False),
        (("discovery", "serve", "--peer", "n1=127.0.0.1:8300"), False),
        ((), False),
    ],
)
def test_what_a_node_is_by_its_command_line(arguments: tuple[str, ...], yes: bool) -> None:
    assert is_node(arguments, "n1") is yes


def test_what_a_runner_is_by_its_command_line() -> None:
    assert is_runner(RUNNER)
    assert not is_runner(("vim", "discovery.testing.playground"))


def test_the_real_proc_knows_this_process() -> None:
    found = Processes().find(os.getpid())
    assert found is not None
    assert found.parent == os.getppid()
    assert Processes().find(1 << 30) is None
