from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from discovery.testing import playground, procfile
from discovery.testing.cluster import eventually

ROOT = Path(__file__).parents[3]


def test_a_procfile_is_names_and_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHO", "me")
    text = "# a comment\n\nn1: serve --id 'n 1'\nweb-1:  run $WHO -- x: y\n"
    assert procfile.parse(text) == {"n1": ["serve", "--id", "n 1"], "web-1": ["run", "me", "--", "x:", "y"]}


@pytest.mark.parametrize(("text", "said"), [("just words", "line 1"), ("a: x\na: y", "line 2 names a again")])
def test_a_line_that_is_none_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        procfile.parse(text)


def test_the_end_of_one_process_is_reported_and_ends_nothing_else() -> None:
    out = io.StringIO()
    runner = procfile.Runner({"short": ["sh", "-c", "echo hello; exit 3"], "long": ["sleep", "60"]}, out)
    runner.start()
    eventually(lambda: "short | ended (exit code 3); the others run on" in out.getvalue())
    assert runner.running() == ["long"]
    runner.stop()
    assert "short | hello" in out.getvalue()
    assert "long  | ended (SIGTERM)" in out.getvalue()


def test_what_ignores_sigterm_is_killed() -> None:
    out = io.StringIO()
    runner = procfile.Runner({"deaf": ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done"]}, out)
    runner.start()
    eventually(lambda: "up" in out.getvalue())
    runner.stop(timeout_s=0.1)
    assert "deaf | ended (SIGKILL)" in out.getvalue()


def test_a_program_that_is_not_there_is_reported() -> None:
    out = io.StringIO()
    runner = procfile.Runner({"a": ["/nonexistent"]}, out)
    runner.start()
    assert out.getvalue() == "a | cannot start /nonexistent: No such file or directory\n"
    assert runner.running() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "Procfile").write_text("a: sh -c 'echo up; exec sleep 60'\nb: sleep 60\n")
    line = [sys.executable, "-m", "discovery.testing.procfile", "Procfile"]
    process = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"a | up\n"
        process.send_signal(number)
        assert set(process.stdout.read().splitlines()) == {
            b"a | ended (SIGTERM)",
            b"b | ended (SIGTERM)",
        }
    assert process.wait(10) == 0


def test_sigusr1_starts_again_what_ended_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("a: sh -c 'echo once; exec sleep 60'\nb: sh -c 'echo up'\n")
    line = [sys.executable, "-m", "discovery.testing.procfile", "Procfile"]
    process = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        seen = {process.stdout.readline() for _ in range(3)}
        assert seen == {b"a | once\n", b"b | up\n", b"b | ended (exit code 0); the others run on\n"}
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == b"b | up\n"
        process.send_signal(signal.SIGTERM)
        assert b"once" not in process.stdout.read()
    assert process.wait(10) == 0


def test_it_ends_with_1_when_nothing_runs_any_more(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("a: true\n")
    line = [sys.executable, "-m", "discovery.testing.procfile"]
    assert subprocess.run(line, cwd=tmp_path, stdout=subprocess.PIPE, check=False).returncode == 1


def test_the_greeting_fits_the_procfile_of_the_house() -> None:
    commands = procfile.parse((ROOT / "Procfile").read_text())
    assert playground.servers(commands, "--dns") == ["127.0.0.1:8600", "127.0.0.1:8601", "127.0.0.1:8602"]
    name = playground.sample(commands)
    assert name == "hello.default.svc.cluster.local"
    text = playground.greeting(commands, name)
    assert "dig @127.0.0.1 -p 8600 hello.default.svc.cluster.local +short" in text
    assert "resolve hello.default.svc.cluster.local --server http://127.0.0.1:8500" in text
