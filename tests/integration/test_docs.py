"""What the pages say to type is typed: the README's first screen on three nodes, each TOML block as a configuration."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from discovery.config import load
from discovery.drill import plan
from discovery.testing.cluster import Cluster, eventually, free_port, running_cluster

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
END = "that was the last line of the answer"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S)


def steps(block: str) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines it shows."""
    found: list[tuple[str, list[str]]] = []
    for line in block.replace("\\\n", " ").splitlines():
        if line.startswith("$"):
            found.append((line[1:].strip(), []))
        else:
            found[-1][1].append(line)
    return [(command, lines) for command, lines in found if command]


class Shell:
    """A bash that is told one command after the other."""

    def __init__(self, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["bash"], cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def run(self, command: str) -> list[str]:
        """The lines that the command writes to stdout."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\necho; echo {END}\n")
        self.process.stdin.flush()
        lines = []
        while (line := self.process.stdout.readline().rstrip("\n")) != END:
            assert self.process.poll() is None
            lines.append(line)
        return [line for line in lines if line]

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(20)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def shell(cluster: Cluster) -> Iterator[Shell]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = Shell({**os.environ, "PATH": path, "DISCOVERY_SERVER": ",".join(cluster.urls)})
    yield shell
    shell.close()


def elsewhere(text: str, cluster: Cluster, service_port: int) -> str:
    """The text with the ports of the page replaced by those of the cluster."""
    ports = {"8500": cluster.nodes[0].http_port, "8600": cluster.nodes[0].dns_port}
    ports |= {"8602": cluster.nodes[2].dns_port, "8080": service_port}
    return re.sub(r"\b(8500|8600|8602|8080)\b", lambda match: str(ports[match[1]]), text)


def matches(expected: list[str], shown: list[str]) -> bool:
    """Whether that is what the page shows; ``…`` stands for anything, ``myhost`` for the host's name."""
    patterns = [re.escape(line).replace("…", ".*").replace("myhost", "[a-z0-9-]+") for line in expected]
    return len(patterns) == len(shown) and all(map(re.fullmatch, patterns, shown))


def test_the_first_screen_of_the_readme_does_what_it_shows(cluster: Cluster, shell: Shell, require_tool) -> None:
    require_tool("dig", "bind9-dnsutils")
    require_tool("curl", "curl")
    port = free_port()
    text = "".join(
        block for block in blocks(ROOT / "README.md", "console") if "make run" not in block and "pip" not in block
    )
    done = 0
    for command, expected in steps(elsewhere(text, cluster, port)):
        if "dig" in command or expected:
            eventually(lambda c=command, e=expected: matches(e, shell.run(c)), what=f"{expected} from {command}")  # type: ignore[misc]
        else:
            shell.run(command)
        done += 1
    assert done >= 7


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_configuration_in_the_pages_is_one(page: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef")
    secret.chmod(0o600)
    for number, block in enumerate(blocks(page, "toml")):
        if block.startswith("# drill.toml"):
            assert plan.parse(block).acts("n1")
            continue
        file = tmp_path / f"{number}.toml"
        file.write_text(block.replace("/etc/discovery/secret", str(secret)))
        assert load(file, {}, {"id": "n1"}).id == "n1"
