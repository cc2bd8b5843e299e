"""The rules of the house, as a test: what is banned and what to write instead, how long things may be, what must exist.

A rule that ruff, mypy or import-linter can keep stands in pyproject.toml; here stand the others.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from discovery import limits
from discovery.api.routes import ROUTES

ROOT = Path(__file__).parents[2]
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
README_LINES_MAX = 120

# A ratchet: what is longer today, with its length. Entries may shrink or go, never grow or come.
LONG_MODULES: dict[str, int] = {}
LONG_FUNCTIONS: dict[str, int] = {}

# pattern | where | what to write instead
BANS = [
    (
        r"^\s*(?:import|from)\s+(?:pickle|marshal|shelve|dill|cloudpickle)\b",
        "code",
        "msgspec: no code from bytes",
    ),
    (r"\b(?:TODO|FIXME|XXX|HACK)\b|NotImplementedError", "code tests docs", "the thing itself, or an issue"),
    (r"\btime\.sleep\((?:0\.[3-9]|[1-9])", "tests", "a wait for the condition: discovery.testing.cluster.eventually"),
    (r"\basyncio\.get_event_loop\(", "code tests", "asyncio.get_running_loop()"),
    (r"\bdatetime\.(?:utcnow|now)\(\)", "code tests", "an aware time: datetime.now(UTC)"),
    (r"\blogging\.(?:debug|info|warning|error|exception)\(", "code", "the module's logger"),
    (r"^\s*print\(", "product", "the log (stderr) or click.echo; stdout is for the ready line"),
    (r"\b(?:eval|exec)\(", "code tests", "data"),
    (r"\bos\.fork\(|\bmultiprocessing\b", "code", "subprocess with `-m`: a fork of a process with threads may hang"),
    (r"\bshell=True\b|\bos\.system\(", "code tests", "a list of arguments"),
    (r"\bexcept:\s*$", "code tests", "the exceptions that are meant"),
    (r"\bassert_called|\bMagicMock\b", "tests", "a small fake that keeps the contract"),
    (r"^\s*(?:import|from)\s+(?:dns|api)\b", "code", "discovery.dns, discovery.api"),
    (r"\bip_address\([^)]*\)\.is_(?:private|global)\b", "code", "the networks meant: these differ by Python version"),
]


def code() -> list[Path]:
    """Every module of the wheel, by its real path."""
    return sorted(path for room in ("discovery", "dns", "api") for path in real_files(ROOT / room, "*.py"))


def product() -> list[Path]:
    """The code that never speaks to a terminal; the supervisor does, one line, when it is ready."""
    speakers = {"cli", "testing", "supervisor.py"}
    return [path for path in code() if not speakers & set(path.relative_to(ROOT).parts)]


def files_of_tests() -> list[Path]:
    """Every file of the tests but this one, which names what it bans."""
    return sorted(path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))


def docs() -> list[Path]:
    """Every page for people."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def real_files(folder: Path, pattern: str) -> Iterator[Path]:
    """Files below ``folder`` that are not reached through a link."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not (Path(parent) / name).is_symlink() and name != "__pycache__"]
        yield from (Path(parent) / name for name in names if Path(name).match(pattern))


def shown(path: Path) -> str:
    """The path as people write it."""
    return str(path.relative_to(ROOT))


def module_name(path: Path) -> str:
    """``dns/name.py`` is ``discovery.dns.name``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "discovery" else ("discovery", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@pytest.mark.parametrize(("pattern", "where", "instead"), BANS, ids=[ban[0][:40] for ban in BANS])
def test_what_is_banned_is_nowhere(pattern: str, where: str, instead: str) -> None:
    places = {"code": code, "product": product, "tests": files_of_tests, "docs": docs}
    banned = re.compile(pattern)
    found = [
        f"{shown(path)}:{number}: {line.strip()}"
        for place in where.split()
        for path in places[place]()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if banned.search(line)
    ]
    assert not found, f"write {instead} instead:\n" + "\n".join(found)


@pytest.mark.parametrize("name", ["dns", "api"])
def test_the_links_are_links(name: str) -> None:
    link = ROOT / "discovery" / name
    assert link.is_symlink(), f"{link} became a file: check out with core.symlinks=true, do not use a zip"
    assert link.readlink() == Path("..") / name


def test_no_module_is_longer_than_it_may_be() -> None:
    lengths = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in code()}
    too_long = {name: lines for name, lines in lengths.items() if lines > LONG_MODULES.get(name, MODULE_LINES_MAX)}
    assert not too_long, f"at most {MODULE_LINES_MAX} lines; which two things are they? {too_long}"


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of the code with its name ``dns/name.py:parse``."""
    for path in code():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{shown(path)}:{node.name}", node


def test_no_function_is_longer_than_it_may_be() -> None:
    lengths = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in functions()}
    too_long = {name: lines for name, lines in lengths.items() if lines > LONG_FUNCTIONS.get(name, FUNCTION_LINES_MAX)}
    assert not too_long, f"at most {FUNCTION_LINES_MAX} lines: {too_long}"


def test_the_ratchet_only_tightens() -> None:
    modules = {shown(path) for path in code()}
    names = {name for name, _ in functions()}
    assert set(LONG_MODULES) <= modules
    assert set(LONG_FUNCTIONS) <= names


def test_every_public_thing_has_a_docstring() -> None:
    bare = []
    for path in code():
        for parent in ast.walk(tree(path)):
            if isinstance(parent, ast.Module | ast.ClassDef) and not getattr(parent, "name", "").startswith("_"):
                bare += [
                    f"{shown(path)}:{node.lineno} {node.name}" for node in _public(parent) if not _documented(node)
                ]
    assert not bare, "\n".join(bare)


def _public(parent: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in parent.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def _documented(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """With a docstring; a setter, and a line of a protocol whose body is ``...``, need none."""
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    return ast.get_docstring(node) is not None or "setter" in decorators or ast.unparse(node.body[-1]) == "..."


def test_every_module_says_what_it_is() -> None:
    assert [shown(path) for path in code() if not ast.get_docstring(tree(path))] == []


def test_no_module_is_dead() -> None:
    """Each is named by another file: imported, or started with ``-m``."""
    files = [*code(), *files_of_tests(), ROOT / "Makefile", ROOT / "pyproject.toml"]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    dead = [
        module_name(path)
        for path in code()
        if path.name not in ("__init__.py", "__main__.py")
        and not any(named(module_name(path), text) for other, text in texts.items() if other != path)
    ]
    assert not dead, f"nothing imports {dead}"


def named(module: str, text: str) -> bool:
    """Whether ``text`` imports ``module`` or names it whole."""
    parent, _, name = module.rpartition(".")
    from_parent = rf"from {re.escape(parent)} import (?:\([^)]*|[^\n(]*)\b{name}\b"
    return re.search(rf"\b{re.escape(module)}\b|{from_parent}", text) is not None


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_the_lock_holds_names_versions_and_hashes_and_no_address(name: str) -> None:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    requirement = re.compile(r"[a-z0-9-]+==[^ ]+( ; [^\\]+)? \\")
    assert all(
        requirement.fullmatch(line) or re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in lines
    )
    assert [line for line in lines if "//" in line or "@" in line] == []


def test_what_runs_is_locked_to_what_is_tested() -> None:
    def versions(name: str) -> set[str]:
        text = (ROOT / "requirements" / name).read_text()
        return {line.split(" ")[0] for line in text.splitlines() if "==" in line and not line.startswith(" ")}

    assert versions("run.txt") <= versions("dev.txt")


def test_limits_md_lists_every_limit_with_its_value() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_0-9]+)` \| ([^|]+) \|", (ROOT / "docs/limits.md").read_text(), re.M))
    wanted = {name: in_words(name, value) for name, value in vars(limits).items() if name.isupper()}
    missing = [f"| `{name}` | {text} | … |" for name, text in wanted.items() if rows.get(name) != text]
    assert not missing, "docs/limits.md must have the rows\n" + "\n".join(missing)
    assert set(rows) <= set(wanted), f"docs/limits.md lists {sorted(set(rows) - set(wanted))}, which are no limits"


def in_words(name: str, value: float) -> str:
    """A limit as people read it: bytes in KiB and MiB, times in seconds, thousands with commas."""
    if "_BYTES" in name:
        for unit, size in (("MiB", 2**20), ("KiB", 2**10)):
            if value >= size and value % size == 0:
                return f"{value // size:,} {unit}"
        return f"{value:,} bytes"
    if re.search(r"_MS(_|$)", name):
        return f"{value / 1000:,g} s" if value < 3_600_000 else f"{value / 3_600_000:g} h"
    return f"{value:,g} s" if re.search(r"_S(_|$)", name) and value < 2**31 - 1 else f"{value:,}"


def test_the_reference_has_every_path_and_method() -> None:
    page = (ROOT / "docs/api.md").read_text()
    places = re.split(r"`(?=/)", page)
    described = {place.split("`")[0]: "" for place in places[1:]}
    for place in places[1:]:
        described[place.split("`")[0]] += place
    missing = [
        f"{method} {route.pattern}"
        for route in ROUTES
        for method in route.methods
        if f"**{method}**" not in described.get(route.pattern, "")
    ]
    assert not missing


def test_the_architecture_has_a_place_for_every_module() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| `([a-z/]+)`[^|]*\| ([^|]+) \|", page, re.M)
    placed = {f"{room.rstrip('/')}/{name}" for room, text in rows for name in re.findall(r"`([a-z_]+)`", text)}
    modules = {shown(path).removesuffix(".py") for path in code() if not path.name.startswith("__")}
    assert modules - placed == set(), "name it in the table of docs/architecture.md"
    assert placed - modules == set(), "the table names what is not there"


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES_MAX


def test_every_make_target_in_the_pages_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {word for path in docs() for word in re.findall(r"`?\bmake ([a-z-]+)[` \n=]", path.read_text())}
    pages = {word for path in docs() for word in re.findall(r"`make ([a-z-]+)[^`]*`", path.read_text())}
    assert pages <= targets, pages - targets
    assert {"run", "test", "check"} <= named


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{shown(path)}: {target}"
        for path in docs()
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert not broken


def test_every_test_that_a_page_names_exists() -> None:
    """``test_name``, ``test_name[case]``, ``test_how_it_begins_…`` or a file of tests."""
    names = {
        name for file in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    missing = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text()
        for begin, rest in re.findall(r"`(test_(?!hazard_NN)\w+)([^`]*)`", text):
            known = any(name.startswith(begin) for name in names) if rest.startswith("…") else begin in names
            missing += [] if known or rest == ".py" else [f"{page.name}: {begin}"]
        missing += [
            f"{page.name}: {path}" for path in re.findall(r"`(tests/[\w/]+\.py)`", text) if not (ROOT / path).exists()
        ]
    assert not missing


def test_every_fault_of_a_host_names_the_test_that_plays_it() -> None:
    table = (ROOT / "docs/faults.md").read_text().partition("## What may happen to a host")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 30
    assert not [row for row in rows if not re.search(r"`test_\w+(\[\w+\])?` \|$", row)]


def test_decisions_are_numbered_without_a_gap() -> None:
    names = sorted(path.name for path in (ROOT / "docs/decisions").glob("*.md"))
    assert names
    assert [name[:4] for name in names] == [f"{number:03d}-" for number in range(1, len(names) + 1)]


def test_ci_is_a_program() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_nothing_names_the_machine_it_was_written_on() -> None:
    home = ROOT.parent if ROOT.parent != Path(tempfile.gettempdir()) else ROOT  # every machine has a /tmp
    listed = subprocess.run(
        ["git", "grep", "-nIF", f"{home}/", "--", "."], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert listed.stdout == ""
