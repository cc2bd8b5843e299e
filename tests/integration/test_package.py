"""What is published: the wheel built from the sdist has every module, and runs beside dnspython from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from discovery import __version__

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 100


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as an index would get it: first the sdist, from that the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    line = [sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(line, check=True, capture_output=True, timeout=TIMEOUT_S)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but the wheel; the dependencies, dnspython too, are found through a path file."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)], check=True, timeout=TIMEOUT_S)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run(program: Path, *arguments: str, folder: Path) -> str:
    env = {"PATH": os.environ["PATH"]}
    done = subprocess.run([program, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_of_the_tree() -> set[str]:
    places = {"discovery": "discovery", "dns": "discovery/dns", "api": "discovery/api"}
    found = set()
    for room, place in places.items():
        for parent, folders, names in os.walk(ROOT / room):
            folders[:] = [name for name in folders if name != "__pycache__"]
            inside = Path(parent).relative_to(ROOT / room)
            found |= {str(place / inside / name) for name in names if name.endswith((".py", ".typed"))}
    return found


def test_the_wheel_holds_every_module_once_and_nothing_beside_them(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    assert {name for name in names if ".dist-info/" not in name} == modules_of_the_tree()
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_it_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "bin/discovery", "--version", folder=tmp_path) == f"discovery {__version__}\n"
    assert "--dns-workers" in run(installed / "bin/discovery", "serve", "--help", folder=tmp_path)


def test_it_leaves_dnspython_alone(installed: Path, tmp_path: Path) -> None:
    code = (
        "import dns.resolver, discovery.dns, discovery.api.app, discovery.dns.worker, discovery.node\n"
        "print(dns.__file__, discovery.dns.__file__, discovery.api.__file__, sep='\\n')"
    )
    theirs, ours, api = run(installed / "bin/python", "-c", code, folder=tmp_path).splitlines()
    assert theirs.startswith(sysconfig.get_path("purelib"))
    assert ours.endswith("site-packages/discovery/dns/__init__.py")
    assert api.endswith("site-packages/discovery/api/__init__.py")
    assert ours.startswith(str(installed))
