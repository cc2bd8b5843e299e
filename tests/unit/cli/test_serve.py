from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner, Result

from discovery import supervisor
from discovery.cli.root import group
from discovery.config import Config
from discovery.config_schema import OPTIONS


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that would have been served; the supervisor says 7."""
    found: list[Config] = []

    def serve(config: Config) -> int:
        found.append(config)
        return 7

    monkeypatch.setattr(supervisor, "serve", serve)
    return found


def serve(*arguments: str, **env: Any) -> Result:
    return CliRunner().invoke(group, ["serve", *arguments], env=env)


def test_without_options_it_is_a_single_node_on_loopback(served) -> None:
    result = serve()
    assert result.exit_code == 7
    assert served[0].id == "n1"
    assert served[0].http.listen == ("127.0.0.1:8500",)
    assert served[0].peers == {}


def test_flags_become_keys(served) -> None:
    line = (
        "--id n2 --zone test --dns-workers 3 --peer n1=127.0.0.1:8301 --peer n2=127.0.0.1:8302 --raft 127.0.0.1:8302"
        " --http 127.0.0.1:1 --http [::1]:1 --http-insecure --dns-ttl 9 --log-format json --log-level debug"
    )
    serve(*line.split())
    config = served[0]
    assert (config.id, config.zone, config.dns.workers, config.dns.ttl) == ("n2", "test", 3, 9)
    assert config.http.listen == ("127.0.0.1:1", "[::1]:1")
    assert config.http.insecure
    assert config.peers == {"n1": "127.0.0.1:8301"}
    assert (config.log.format, config.log.level) == ("json", "debug")


def test_a_flag_with_a_short_form_has_that_of_its_key_too(served) -> None:
    line = (
        "--http-listen 127.0.0.1:1 --http [::1]:1 --dns-listen 127.0.0.1:2 --raft-listen 127.0.0.1:3 --id n1"
        " --peers n1=127.0.0.1:3"
    )
    serve(*line.split())
    config = served[0]
    assert (config.http.listen, config.dns.listen) == (("127.0.0.1:1", "[::1]:1"), ("127.0.0.1:2",))
    assert (config.raft.listen, config.peers) == ("127.0.0.1:3", {})


def test_a_flag_beats_a_variable_and_a_variable_the_file(served, tmp_path) -> None:
    file = tmp_path / "discovery.toml"
    file.write_text('zone = "file"\nid = "file"\n[dns]\nttl = 1\n')
    serve("--config", str(file), "--zone", "flag", DISCOVERY_ZONE="env", DISCOVERY_ID="env")
    assert (served[0].zone, served[0].id, served[0].dns.ttl) == ("flag", "env", 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--http", "nowhere"), "--http"),
        (("--dns-workers", "many"), "--dns-workers: must be an integer"),
        (("--config", "/nonexistent"), "/nonexistent: cannot be read"),
        (("--peer", "n2"), "--peer: must be ID=HOST:PORT"),
    ],
)
def test_a_configuration_error_ends_with_2_and_names_option_and_rule(served, arguments, said: str) -> None:
    result = serve(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert served == []


def test_every_option_of_the_configuration_has_its_flag() -> None:
    assert {option.flag for option in OPTIONS} <= {
        name for param in group.commands["serve"].params for name in param.opts
    }
