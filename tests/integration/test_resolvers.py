"""Unmodified resolvers as users: a network namespace whose resolv.conf names a node, and nothing else.

Inside it the node listens on 127.0.0.53:53, as a container's nameserver would; short names go by the search list with
``ndots:5``. What glibc and musl do with each answer is what containers get.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from discovery.testing.cluster import eventually

SEARCH = "default.svc.cluster.local svc.cluster.local cluster.local"
NAMESERVER = "127.0.0.53"
NOT_FOUND = ("Name or service not known", "Name does not resolve")
PROBE = """
#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>
int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *a;
    int code = getaddrinfo(argv[1], "80", &hints, &found);
    if (code) { printf("%s\\n", gai_strerror(code)); return 1; }
    for (a = found; a; a = a->ai_next) {
        char text[INET6_ADDRSTRLEN];
        void *address = a->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)a->ai_addr)->sin_addr
                                                : (void *)&((struct sockaddr_in6 *)a->ai_addr)->sin6_addr;
        puts(inet_ntop(a->ai_family, address, text, sizeof text));
    }
    return 0;
}
"""

OUTSIDE = f"""
import threading
from discovery.testing.upstream import Upstream, reply_to
RECORDS = {{"A": "www.example.com. 60 IN A 192.0.2.7", "AAAA": "www.example.com. 60 IN AAAA 2001:db8::7"}}
SOA = "example.com. 60 IN SOA ns.example.com. root.example.com. 1 2 3 4 60"
def behave(server, packet, stream):
    import dnslib
    asked = dnslib.DNSRecord.parse(packet).q
    found = str(asked.qname).lower() == "www.example.com."
    record = RECORDS.get(dnslib.QTYPE.get(asked.qtype)) if found else None
    answer = reply_to(packet, *filter(None, [record]), rcode="NOERROR" if found else "NXDOMAIN", authority=SOA)
    return [bytes(answer.pack())]
server = Upstream(behave, "{NAMESERVER}", 5300)
print("ready", flush=True)
threading.Event().wait()
"""


@dataclass
class Host:
    """A network namespace with a node in it."""

    name: str

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        line = ["ip", "netns", "exec", self.name, *command]
        return subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)

    def register(self, service: str, instance: str, body: str) -> None:
        url = f"http://127.0.0.1:8500/api/v1/namespaces/default/services/{service}/instances/{instance}"
        done = self.run("curl", "-sS", "-f", "-X", "PUT", "-d", body, url)
        assert done.returncode == 0, done.stderr + done.stdout

    def settings(self, namespace: str, service: str, body: str) -> None:
        url = f"http://127.0.0.1:8500/api/v1/namespaces/{namespace}/services/{service}"
        done = self.run("curl", "-sS", "-f", "-X", "PUT", "-d", body, url)
        assert done.returncode == 0, done.stderr + done.stdout

    def lookup(self, program: str, name: str) -> list[str]:
        return sorted(set(self.run(program, name).stdout.split("\n")) - {""})


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same few lines of C by both libraries."""
    folder = tmp_path_factory.mktemp("programs")
    source = folder / "probe.c"
    source.write_text(PROBE)
    found = {}
    for name, compiler in (("glibc", ["cc"]), ("musl", ["musl-gcc", "-static"])):
        if shutil.which(compiler[0]):
            found[name] = str(folder / name)
            subprocess.run([*compiler, "-o", found[name], str(source)], check=True)
    return found


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with serving("alone", tmp_path_factory.mktemp("host")) as made:
        yield made


@pytest.fixture(scope="module")
def forwarding_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A node that sends names outside its zone on to a server that knows one of them."""
    with serving("forwarding", tmp_path_factory.mktemp("host"), "--dns-forward", f"{NAMESERVER}:5300") as made:
        line = ["ip", "netns", "exec", made.name, sys.executable, "-P", "-c", OUTSIDE]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield made
        finally:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def serving(kind: str, folder: Path, *options: str) -> Iterator[Host]:
    """A network namespace of its own with a node in it."""
    from discovery.testing.needs import require_root, require_tool

    require_root()
    require_tool("ip", "iproute2")
    require_tool("curl", "curl")
    name = f"discovery-{os.getpid()}-{kind}"
    etc = Path("/etc/netns") / name
    etc.mkdir(parents=True)
    (etc / "resolv.conf").write_text(f"nameserver {NAMESERVER}\nsearch {SEARCH}\noptions ndots:5\n")
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    line = ["ip", "netns", "exec", name, sys.executable, "-P", "-m", "discovery", "serve"]
    line += ["--data-dir", str(folder / "data"), "--dns", f"{NAMESERVER}:53", "--dns-workers", "1", *options]
    out = (folder / "out").open("w+")
    process = subprocess.Popen(line, stdout=out, stderr=subprocess.STDOUT)
    try:
        eventually(lambda: "ready id=" in (folder / "out").read_text(), 20, "the ready line")
        yield Host(name)
    finally:
        process.terminate()
        process.wait(30)
        out.close()
        subprocess.run(["ip", "netns", "del", name], check=True)
        shutil.rmtree(etc)


def library(programs: dict[str, str], require_tool: Callable[[str, str], str], name: str) -> str:
    require_tool(*{"glibc": ("cc", "gcc"), "musl": ("musl-gcc", "musl-tools")}[name])
    return programs[name]


@pytest.mark.parametrize("libc", ["glibc", "musl"])
@pytest.mark.parametrize("name", ["twin", "twin.default", "twin.default.svc", "twin.default.svc.cluster.local", "TwiN"])
def test_getaddrinfo_finds_a_service_by_every_form_of_its_name(
    host: Host, programs: dict[str, str], require_tool: Callable[[str, str], str], libc: str, name: str
) -> None:
    host.register("twin", "a", '{"address": "10.1.2.3"}')
    host.register("twin", "b", '{"address": "10.1.2.4"}')
    assert host.lookup(library(programs, require_tool, libc), name) == ["10.1.2.3", "10.1.2.4"]


@pytest.mark.parametrize("libc", ["glibc", "musl"])
def test_getaddrinfo_follows_instances_aliases_and_virtual_services(
    host: Host, programs: dict[str, str], require_tool: Callable[[str, str], str], libc: str
) -> None:
    host.register("web", "web-1", '{"address": "10.1.2.3"}')
    host.register("down", "a", '{"address": "10.1.2.9", "status": "not_ready"}')
    host.settings("prod", "vip", '{"type": "virtual", "virtual_ips": ["10.96.0.1"]}')
    host.settings("default", "alias", '{"type": "external", "external_name": "web-1.web.default.svc.cluster.local"}')
    program = library(programs, require_tool, libc)
    for name, addresses in (
        ("web-1.web", ["10.1.2.3"]),
        ("web-1.web.default.svc.cluster.local.", ["10.1.2.3"]),
        ("vip.prod", ["10.96.0.1"]),
        ("alias", ["10.1.2.3"]),
    ):
        assert host.lookup(program, name) == addresses, name
    assert host.run(program, "down").stdout.strip() in NOT_FOUND


@pytest.mark.parametrize("libc", ["glibc", "musl"])
def test_getaddrinfo_takes_both_families_and_the_one_that_is_there(
    host: Host, programs: dict[str, str], require_tool: Callable[[str, str], str], libc: str
) -> None:
    host.register("dual", "a", '{"addresses": ["10.1.2.3", "fd00::7"]}')
    host.register("six", "a", '{"address": "fd00::8"}')
    program = library(programs, require_tool, libc)
    assert host.lookup(program, "dual") == ["10.1.2.3", "fd00::7"]
    assert host.lookup(program, "six") == ["fd00::8"]


@pytest.mark.parametrize("libc", ["glibc", "musl"])
@pytest.mark.parametrize("name", ["absent", "absent.default.svc.cluster.local", "not-in-any-zone"])
def test_an_unknown_short_name_is_not_found_and_no_temporary_failure(
    host: Host, programs: dict[str, str], require_tool: Callable[[str, str], str], libc: str, name: str
) -> None:
    answer = host.run(library(programs, require_tool, libc), name)
    assert answer.returncode == 1
    assert answer.stdout.strip() in NOT_FOUND


@pytest.mark.parametrize("libc", ["glibc", "musl"])
def test_a_service_of_sixty_instances_resolves_with_and_without_tcp(
    host: Host, programs: dict[str, str], require_tool: Callable[[str, str], str], libc: str
) -> None:
    for number in range(60):
        host.register("many", f"i{number}", f'{{"address": "10.2.0.{number + 1}"}}')
    found = host.lookup(library(programs, require_tool, libc), "many")
    # musl 1.2.3 has no TCP and takes what the truncated UDP answer holds; glibc asks again over TCP.
    assert len(found) == 60 if libc == "glibc" else len(found) >= 20


@pytest.mark.parametrize("libc", ["glibc", "musl"])
def test_one_nameserver_line_resolves_names_inside_and_outside(
    forwarding_host: Host, programs: dict[str, str], require_tool: Callable[[str, str], str], libc: str
) -> None:
    host, program = forwarding_host, library(programs, require_tool, libc)
    host.register("inside", "a", '{"address": "10.1.2.3"}')
    host.settings("default", "door", '{"type": "external", "external_name": "www.example.com"}')
    outside = ["192.0.2.7", "2001:db8::7"]
    for name, addresses in (
        ("inside", ["10.1.2.3"]),
        ("inside.default", ["10.1.2.3"]),
        ("www.example.com", outside),
        ("WWW.Example.com.", outside),
        ("door", outside),
        ("localhost.", ["127.0.0.1", "::1"]),
    ):
        assert host.lookup(program, name) == addresses, name
    for name in ("absent", "absent.default", "absent.example.com", "absent.default.svc.cluster.local", "a.invalid"):
        assert host.run(program, name).stdout.strip() in NOT_FOUND, name


def test_curl_reaches_a_service_by_its_short_name(
    host: Host, tmp_path: Path, require_tool: Callable[[str, str], str]
) -> None:
    require_tool("curl", "curl")
    server = [sys.executable, "-P", "-m", "http.server", "8088", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    process = subprocess.Popen(
        ["ip", "netns", "exec", host.name, *server], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        host.register("page", "a", '{"address": "127.0.0.1", "ports": {"http": 8088}}')
        ask = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://page:8088/")
        assert eventually(lambda: "200" in host.run(*ask).stdout, 10, "an answer of the page")
    finally:
        process.kill()
        process.wait()
