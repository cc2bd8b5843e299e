"""Three members, each its own process, killed without warning: what was acknowledged is there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

IDS = ("n1", "n2", "n3")
TICKS = os.sysconf("SC_CLK_TCK")


class Member:
    """A process that is told what to do by lines."""

    def __init__(self, node, directory, sock, peers, **options):
        self.node, self.sock = node, sock
        self.options = {"node": node, "directory": str(directory), "peers": peers, **options}
        self.options["fd"] = sock.fileno()
        self.numbers = itertools.count()
        self.process = None
        self.answers = {}
        self.acked = []
        self.acked_at = []

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "discovery.testing.raft_member",
            json.dumps(self.options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[self.sock.fileno()],
            limit=1 << 26,
        )
        self.reader = asyncio.create_task(self._read(self.process.stdout))

    async def _read(self, stdout):
        while line := await stdout.readline():
            if not line.endswith(b"\n"):
                break  # the kill came in the middle of it
            said = json.loads(line)
            if "ack" in said:
                self.acked.append(said["ack"])
                self.acked_at.append(time.monotonic())
            elif "id" in said and (waiter := self.answers.pop(said["id"], None)) and not waiter.done():
                waiter.set_result(said)

    def tell(self, do, **wish):
        number = next(self.numbers)
        self.answers[number] = asyncio.get_running_loop().create_future()
        self.process.stdin.write(json.dumps({"id": number, "do": do, **wish}).encode() + b"\n")
        return self.answers[number]

    async def status(self):
        return (await asyncio.wait_for(self.tell("status"), 5.0))["status"]

    async def kill(self):
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        await self.reader
        self.answers.clear()

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_mib(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


@pytest.fixture
async def members(tmp_path):
    sockets = {node: socket.create_server(("127.0.0.1", 0)) for node in IDS}
    peers = {node: f"127.0.0.1:{sock.getsockname()[1]}" for node, sock in sockets.items()}
    made = {node: Member(node, tmp_path / node, sockets[node], peers) for node in IDS}
    for member in made.values():
        await member.start()
    yield made
    for member in made.values():
        with contextlib.suppress(ProcessLookupError):
            await member.kill()
    for sock in sockets.values():
        sock.close()


async def leader_of(members, within_s=10.0):
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        for member in members:
            status = await member.status()
            if status["ready"]:
                return member
        await asyncio.sleep(0.02)
    pytest.fail("no leader in time")


async def items_of(member):
    answer = await asyncio.wait_for(member.tell("barrier", timeout=8.0), 10.0)
    assert "error" not in answer, answer
    return (await asyncio.wait_for(member.tell("items"), 20.0))["items"]


def keys(items):
    return [item.split(" ")[0] for item in items]


async def test_a_leader_killed_under_load_loses_nothing_and_writes_go_on(members):
    gaps = []
    for turn in range(4):
        leader = await leader_of(members.values())
        others = [member for member in members.values() if member is not leader]
        for member in others:
            member.tell("load", prefix=f"{member.node}-{turn}", callers=8, size=50)
        counts = [len(member.acked) for member in others]
        await until(lambda: all(len(m.acked) > c + 50 for m, c in zip(others, counts, strict=True)))  # noqa: B023
        killed_at = time.monotonic()
        await leader.kill()
        await until(lambda: all(m.acked_at[-1] > killed_at + 0.05 for m in others))  # noqa: B023
        gaps.append(max(longest_gap(member.acked_at, killed_at - 0.05) for member in others))
        for member in others:
            await member.kill()
        for member in members.values():
            await member.start()
    leader = await leader_of(members.values())
    assert_all_there(members, keys(await items_of(leader)))
    print(f"\nwrite gaps after kill -9 of the leader: {[f'{gap:.3f}' for gap in sorted(gaps)]} s")
    assert max(gaps) < 0.8


async def test_all_members_killed_at_once_under_load_keep_every_acknowledged_write(members):
    for turn in range(4):
        await leader_of(members.values())
        counts = [len(member.acked) for member in members.values()]
        for member in members.values():
            member.tell("load", prefix=f"{member.node}-{turn}", callers=32, size=200)
        await until(lambda: all(len(m.acked) > c + 200 for m, c in zip(members.values(), counts, strict=True)))  # noqa: B023
        await asyncio.gather(*(member.kill() for member in members.values()))
        for member in members.values():
            await member.start()
    leader = await leader_of(members.values())
    items = keys(await items_of(leader))
    assert_all_there(members, items)
    for member in members.values():
        assert keys(await items_of(member)) == items


async def test_a_leader_that_was_stopped_for_a_while_acknowledges_nothing_deposed(members):
    leader = await leader_of(members.values())
    others = [member for member in members.values() if member is not leader]
    for member in members.values():
        member.tell("load", prefix=member.node, callers=4, size=20)
    await until(lambda: all(len(member.acked) > 20 for member in members.values()))
    leader.process.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    await until(lambda: all(member.acked_at[-1] > stopped_at + 1.5 for member in others))
    leader.process.send_signal(signal.SIGCONT)
    count = len(leader.acked)
    await until(lambda: len(leader.acked) > count + 20)
    for member in members.values():
        await member.kill()
        await member.start()
    assert_all_there(members, keys(await items_of(await leader_of(members.values()))))


@pytest.mark.parametrize("lying_disk", [False, True], ids=["synced", "never synced"])
async def test_a_loss_of_power_on_all_hosts_takes_nothing_that_was_synced(
    tmp_path, lying_disk, require_root, require_tool
):
    require_root()
    require_tool("mkfs.ext4", "e2fsprogs")
    with contextlib.ExitStack() as mounts:
        ram = mounts.enter_context(mounted(tmp_path / "ram", "-t", "tmpfs", "-o", "size=256m", "tmpfs"))
        image, copy = ram / "image", ram / "copy"
        with image.open("wb") as file:
            file.truncate(100 * 2**20)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        disk = mounts.enter_context(mounted(tmp_path / "before", "-o", "loop,commit=600", image))
        acked = await acknowledged_until_the_power_fails(disk, lambda: shutil.copyfile(image, copy), lying_disk)
        after = mounts.enter_context(mounted(tmp_path / "after", "-o", "loop", copy))
        present = []
        with contextlib.suppress(TimeoutError, OSError) if lying_disk else contextlib.nullcontext():
            present = await items_after(after)  # without a sync there may be no log at all, and no member starts
    lost = len(set(acked) - set(present))
    print(f"\n{len(acked)} acknowledged before the power failed, {lost} lost")
    assert acked
    assert (lost > 0) == lying_disk


@contextlib.contextmanager
def mounted(point, *options):
    point.mkdir()
    subprocess.run(["mount", *options, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


@contextlib.asynccontextmanager
async def running(directory, **options):
    with contextlib.ExitStack() as closing:
        sockets = {node: closing.enter_context(socket.create_server(("127.0.0.1", 0))) for node in IDS}
        peers = {node: f"127.0.0.1:{sock.getsockname()[1]}" for node, sock in sockets.items()}
        made = [Member(node, directory / node, sockets[node], peers, **options) for node in IDS]
        for member in made:
            await member.start()
        try:
            yield made
        finally:
            for member in made:
                with contextlib.suppress(ProcessLookupError):
                    await member.kill()


async def acknowledged_until_the_power_fails(disk, fail, lying_disk):
    async with running(disk, lying_disk=lying_disk) as members:
        await leader_of(members)
        for member in members:
            member.tell("load", prefix=member.node, callers=8, size=100)
        await until(lambda: all(len(member.acked) > 300 for member in members))
        for member in members:
            member.process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(fail)
        for member in members:
            await member.kill()
        return [item for member in members for item in member.acked]


async def items_after(disk):
    async with running(disk) as members:
        return keys(await items_of(await leader_of(members)))


async def test_hostile_bytes_close_the_connection_and_cost_nothing(members):
    leader = await leader_of(members.values())
    port = leader.sock.getsockname()[1]
    before = leader.memory_mib()
    for payload in hostile():
        assert await answer_to(port, payload) == b"", payload[:40]
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
    assert (await asyncio.wait_for(leader.tell("propose", item="alive"), 5.0))["length"] >= 1
    for _, writer in idle:
        writer.close()
    grown = leader.memory_mib() - before
    print(f"\nafter hostile bytes: {grown:.1f} MiB more")
    assert grown < 16
    assert not os.path.exists("/tmp/discovery-pickle-ran")
    assert (await leader.status())["ready"]


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch /tmp/discovery-pickle-ran",))


def hostile():
    import pickle
    import zlib

    pickled = pickle.dumps(Bomb())
    yield b"\xff\xff\xff\xff"
    yield (2**31 - 1).to_bytes(4, "big") + b"x" * 1000
    yield (4097).to_bytes(4, "big") + b"x" * 4097
    yield len(pickled).to_bytes(4, "big") + pickled
    yield zlib.compress(pickled)
    yield b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield os.urandom(100_000)
    yield (5).to_bytes(4, "big") + b"\x95\xa5hell"
    yield b"\x00\x00\x00\x00" * 1000
    yield (64).to_bytes(4, "big") + b"\x94\xa5hello\x01\xa2n1\xa2n2"  # begins well and stops: the time limit ends it


async def answer_to(port, payload):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(payload)
    try:
        return await asyncio.wait_for(reader.read(), 3.0)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_throughput_of_three_processes_with_every_write_synced(members):
    leader = await leader_of(members.values())
    titles = ("at", "callers", "bytes", "puts/s", "p50 ms", "p99 ms", "stall ms", "CPU us/put, 3 nodes")
    print("\n" + " ".join(f"{title:>8}" for title in titles))
    follower = next(member for member in members.values() if member is not leader)
    for place, member in (("leader", leader), ("follower", follower)):
        for callers, total, size in ((1, 1000, 20), (64, 20_000, 20), (256, 60_000, 20), (16, 80, 900_000)):
            used = sum(m.cpu_s() for m in members.values())
            answer = await asyncio.wait_for(member.tell("bench", callers=callers, total=total, size=size), 60.0)
            used = sum(m.cpu_s() for m in members.values()) - used
            rest = (answer["p50_ms"], answer["p99_ms"], answer["stall_ms"], used / total * 1e6)
            row = (place, callers, size, f"{answer['per_s']:.0f}", *(f"{number:.2f}" for number in rest))
            print(" ".join(f"{cell:>8}" for cell in row))
            if callers == 256:
                assert answer["per_s"] > 5_000


async def until(condition, within_s=15.0):
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


def longest_gap(times, since):
    recent = [moment for moment in times if moment > since]
    return max(after - before for before, after in itertools.pairwise(recent))


def assert_all_there(members, items):
    present = set(items)
    acked = [item for member in members.values() for item in member.acked]
    missing = [item for item in acked if item not in present]
    print(f"\n{len(acked)} acknowledged, {len(missing)} missing")
    assert acked
    assert missing == []
