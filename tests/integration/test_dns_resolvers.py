"""Unmodified stub resolvers against a worker: glibc and musl, with the search list that a container has.

They read ``/etc/resolv.conf`` and ask port 53, so that everything runs in a network and mount namespace of its own:
this file, started there as a program, holds node, worker and clients.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from discovery import feed
from discovery.model import Service
from discovery.testing.dns_case import instance, instance_record, record_of
from discovery.testing.dns_worker import DnsWorker, FeedNode

RESOLV_CONF = """nameserver 127.0.0.1
search default.svc.cluster.local svc.cluster.local cluster.local
options ndots:5
"""
IN_NAMESPACE = """
ip link set lo up && mount --bind "$1/resolv.conf" /etc/resolv.conf && exec "$2" -P "$3" "$1"
"""
C_CLIENT = r"""
#include <stdio.h>
#include <netdb.h>
#include <arpa/inet.h>
int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *one;
    int code = getaddrinfo(argv[1], 0, &hints, &found);
    char text[64];
    if (code) { printf("%s\n", code == EAI_NONAME ? "no such name" : code == EAI_AGAIN ? "try again" : gai_strerror(code)); return 0; }
    for (one = found; one; one = one->ai_next) {
        void *address = one->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
                                                  : (void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;
        printf("%s\n", inet_ntop(one->ai_family, address, text, sizeof text));
    }
    return 0;
}
"""  # noqa: E501
NAMES = {
    "web": ["10.0.0.1", "10.0.0.2"],
    "web.default": ["10.0.0.1", "10.0.0.2"],
    "web-1.web": ["10.0.0.2"],
    "web.default.svc.cluster.local": ["10.0.0.1", "10.0.0.2"],
    "web.default.svc.cluster.local.": ["10.0.0.1", "10.0.0.2"],
    "dual": ["10.1.0.1", "fd00::1"],
    "six": ["fd00::6"],
    "vip.prod": ["10.96.0.1"],
    "alias": ["10.0.0.1", "10.0.0.2"],
    "nobody": ["no such name"],
    "down": ["no such name"],
}


def inside(folder: Path) -> None:
    """In the namespaces: ask every client for every name; the answers go to stdout as JSON."""
    node = FeedNode(folder / "feed")
    listener = socket.create_server(("127.0.0.1", 53))
    found: dict[str, dict[str, list[str]]] = {}
    slowest: dict[str, float] = {}
    with DnsWorker(node.path, listener=listener) as worker:
        node.accept()
        specs = [
            instance("web", "web-0", "10.0.0.1"),
            instance("web", "web-1", "10.0.0.2"),
            instance("dual", "d", "10.1.0.1", "fd00::1"),
            instance("six", "s", "fd00::6"),
            instance("down", "d", "10.9.0.1", status="not_ready"),
            *(instance("many", f"m-{n}", f"10.2.0.{n}") for n in range(1, 61)),
        ]
        services = [
            Service("prod", "vip", "virtual", ("10.96.0.1",)),
            Service("default", "alias", "external", external_name="web.default.svc.cluster.local"),
        ]
        node.sync([instance_record(spec) for spec in specs], [record_of(service) for service in services])
        for client in sorted(folder.glob("client-*")):
            for name in (*NAMES, "many"):
                begun = time.monotonic()
                ran = subprocess.run([client, name], capture_output=True, text=True, timeout=30, check=True)
                slowest[client.name] = max(slowest.get(client.name, 0), time.monotonic() - begun)
                found.setdefault(client.name, {})[name] = sorted(set(ran.stdout.split("\n")) - {""})
        node.send(feed.State(leader=True, stale_ms=0))
        assert worker.process.poll() is None
    print(json.dumps({"found": found, "slowest": slowest}))


@pytest.fixture(name="told", scope="module")
def _told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    folder = tmp_path_factory.mktemp("resolvers")
    (folder / "resolv.conf").write_text(RESOLV_CONF)
    (folder / "client.c").write_text(C_CLIENT)
    for compiler, name in (("gcc", "client-glibc"), ("musl-gcc", "client-musl")):
        if shutil.which(compiler):
            static = ["-static"] if compiler == "musl-gcc" else []
            subprocess.run(
                [compiler, *static, "-o", folder / name, folder / "client.c"], check=True, capture_output=True
            )
    command = ["unshare", "--net", "--mount", "sh", "-c", IN_NAMESPACE, "sh", folder, sys.executable, __file__]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))


@pytest.fixture(name="needs")
def _needs(require_root: Callable[[], None], require_tool: Callable[[str, str], str]) -> Callable[[str], None]:
    def needs(client: str) -> None:
        require_root()
        require_tool("unshare", "util-linux")
        require_tool(*{"client-glibc": ("gcc", "gcc"), "client-musl": ("musl-gcc", "musl-tools")}[client])

    return needs


CLIENTS = ["client-glibc", "client-musl"]


@pytest.mark.parametrize("client", CLIENTS)
def test_names_as_containers_use_them(
    client: str, needs: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    needs(client)
    told = request.getfixturevalue("told")
    assert {name: told["found"][client][name] for name in NAMES} == NAMES
    assert told["slowest"][client] < 1.0, "nothing ran into a resolver's timeout"


@pytest.mark.parametrize(("client", "least"), [("client-glibc", 60), ("client-musl", 25)])
def test_a_service_of_sixty_instances(
    client: str, least: int, needs: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    """glibc asks again over TCP; musl 1.2.3 has no TCP and takes what 512 bytes hold."""
    needs(client)
    assert len(request.getfixturevalue("told")["found"][client]["many"]) >= least


if __name__ == "__main__":
    os.environ.pop("LD_PRELOAD", None)
    inside(Path(sys.argv[1]))
