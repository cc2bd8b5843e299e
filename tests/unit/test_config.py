"""Configuration: layers, names, and every rule with the place it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from discovery import config, config_rules
from discovery.credentials import Files
from discovery.errors import ConfigError
from discovery.testing.certificates import Authority

SECRET = "0123456789abcdef"

WHOLE_FILE = """
id = "n1"
data_dir = "/var/lib/discovery"
zone = "Example.Test."
[peers]
n1 = "10.0.0.1:8300"
n2 = "10.0.0.2:8300"
[http]
listen = ["10.0.0.1:8500", "[::1]:8500"]
advertise = "http://10.0.0.1:8500/"
insecure = true
[dns]
listen = ["127.0.0.1:8600"]
advertise = "10.0.0.1"
workers = 2
ttl = 7
udp_max = 1400
max_answers = 50
forward = ["192.0.2.53"]
reverse_zones = ["10.0.0.0/8", "fc00::/7"]
consul_zone = ""
[raft]
listen = "0.0.0.0:8300"
secret_file = "{secret}"
[tls]
[log]
format = "json"
level = "debug"
"""


def load(file: Path | None = None, env: dict[str, str] | None = None, **flags: Any) -> config.Config:
    return config.load(file, env or {}, flags)


def refusal(file: Path | None = None, env: dict[str, str] | None = None, **flags: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(file, env or {}, flags)
    return caught.value.detail


def written(folder: Path, text: str) -> Path:
    file = folder / "discovery.toml"
    file.write_text(text)
    return file


def test_without_options_a_node_is_alone_on_loopback() -> None:
    loaded = load()
    assert (loaded.id, loaded.zone, loaded.peers) == ("n1", "cluster.local", {})
    assert (loaded.http.listen, loaded.dns.listen, loaded.raft.listen) == (
        ("127.0.0.1:8500",),
        ("127.0.0.1:8600",),
        "127.0.0.1:8300",
    )
    assert loaded.dns.workers >= 1
    assert loaded.data_dir == str(Path("discovery-data").absolute())


def test_the_service_managers_state_directory_is_the_data_directory() -> None:
    assert load(env={"STATE_DIRECTORY": "/var/lib/discovery:/var/lib/other"}).data_dir == "/var/lib/discovery"


def test_the_file_of_the_contract_is_read_whole(tmp_path: Path) -> None:
    secret = written(tmp_path, SECRET + "\n")
    file = tmp_path / "whole.toml"
    file.write_text(WHOLE_FILE.replace("{secret}", str(secret)))
    loaded = load(file)
    assert loaded.zone == "example.test"
    assert loaded.peers == {"n2": "10.0.0.2:8300"}
    assert loaded.raft.advertise == "10.0.0.1:8300"  # its own entry, the bind address being a wildcard
    assert loaded.http.advertise == "http://10.0.0.1:8500"
    assert (loaded.dns.ttl, loaded.dns.udp_max, loaded.dns.max_answers, loaded.log.format) == (7, 1400, 50, "json")
    assert config_rules.read_secret(loaded) == SECRET.encode()


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = written(tmp_path, "[dns]\nworkers = 2\nttl = 2\nudp_max = 600\n")
    loaded = load(file, {"DISCOVERY_DNS_WORKERS": "3", "DISCOVERY_DNS_TTL": "3"}, dns_workers=4)
    assert (loaded.dns.workers, loaded.dns.ttl, loaded.dns.udp_max, loaded.dns.max_answers) == (4, 3, 600, 100)


@pytest.mark.parametrize("option", config.OPTIONS, ids=lambda option: option.key)
def test_every_option_has_a_flag_and_a_variable_that_follow_its_key(option: config.Option) -> None:
    assert option.flag == "--" + (option.short or option.key).replace(".", "-").replace("_", "-")
    assert "DISCOVERY_" + option.key.upper().replace(".", "_") in option.variables


def test_lists_are_commas_in_variables_and_repeats_on_the_line() -> None:
    loaded = load(env={"DISCOVERY_HTTP": "127.0.0.1:1, [::1]:2"}, dns=("127.0.0.1:3", "127.0.0.2:3"))
    assert loaded.http.listen == ("127.0.0.1:1", "[::1]:2")
    assert loaded.dns.listen == ("127.0.0.1:3", "127.0.0.2:3")


def test_peers_come_from_every_layer() -> None:
    assert load(id="n1", peer=("n2=127.0.0.1:2", "n3=host-3.example:3")).peers == {
        "n2": "127.0.0.1:2",
        "n3": "host-3.example:3",
    }
    assert load(env={"DISCOVERY_ID": "n1", "DISCOVERY_PEER": "n2=127.0.0.1:2"}).peers == {"n2": "127.0.0.1:2"}


def test_variables_that_are_no_options_or_empty_are_ignored() -> None:
    injected = {"DISCOVERY_PORT": "tcp://10.0.0.1:80", "DISCOVERY_SERVICE_HOST": "10.0.0.1", "DISCOVERY_ZONE": ""}
    assert load(env=injected) == load()


def test_two_variables_of_one_option_must_agree() -> None:
    assert load(env={"DISCOVERY_RAFT": "127.0.0.1:1", "DISCOVERY_RAFT_LISTEN": "127.0.0.1:1"}).raft.listen
    text = refusal(env={"DISCOVERY_RAFT": "127.0.0.1:1", "DISCOVERY_RAFT_LISTEN": "127.0.0.1:2"})
    assert text == "DISCOVERY_RAFT and DISCOVERY_RAFT_LISTEN: mean the same option and differ"


def test_parameters_of_a_command_line_that_were_not_given_count_as_absent() -> None:
    assert load(http=(), dns_workers=None, http_insecure=None, peer=()) == load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[dns]\nworker = 2\n", "dns.worker: is no known key (did you mean dns.workers?)"),
        ("colour = 1\n", "colour: is no known key"),
        ("dns = 3\n", "dns: must be a table (got 3)"),
        ("zone = 5\n", "zone: must be text, not an integer"),
        ("[dns]\nworkers = true\n", "dns.workers: must be an integer, not true or false"),
        ("[dns]\nworkers = '2'\n", "dns.workers: must be an integer, not text"),
        ("[http]\nlisten = '127.0.0.1:1'\n", "http.listen: must be a list, not text"),
        ("[http]\nlisten = [1]\n", "http.listen: must be text, not an integer"),
        ("[peers]\nn2 = 1\n", "peers: must be text, not an integer"),
        ("peers = 1\n", "peers: must be a table, not an integer"),
        ("zone = \n", "is no TOML"),
        ("[dns]\nworkers = 65\n", "dns.workers: must be 1..64 (got 65)"),
    ],
)
def test_an_error_in_the_file_names_file_key_and_rule(tmp_path: Path, text: str, message: str) -> None:
    file = written(tmp_path, text)
    shown = refusal(file)
    assert shown.startswith(f"{file}: ")
    assert message in shown


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.toml") == f"{tmp_path}/none.toml: cannot be read: No such file or directory"
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert refusal(tmp_path / "bytes.toml") == f"{tmp_path}/bytes.toml: must be UTF-8"


def test_an_error_in_a_variable_names_it() -> None:
    assert refusal(env={"DISCOVERY_DNS_WORKERS": "two"}) == "DISCOVERY_DNS_WORKERS: must be an integer (got 'two')"
    assert refusal(env={"DISCOVERY_HTTP_INSECURE": "maybe"}) == (
        "DISCOVERY_HTTP_INSECURE: must be true or false (got 'maybe')"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"id": "N 1"}, "--id: must be a DNS label"),
        ({"data_dir": ""}, "--data-dir: must not be empty"),
        ({"zone": "a" * 50 + "." + "b" * 7}, "--zone: must have 1..57 characters"),
        ({"zone": "a..b"}, "--zone: must be DNS labels joined by dots"),
        ({"zone": "."}, "--zone: must have 1..57 characters"),
        ({"peer": ("n2=127.0.0.1:2",)}, "--id (key id): is required with peers"),
        ({"id": "n1", "peer": ("n2",)}, "--peer: must be ID=HOST:PORT"),
        ({"id": "n1", "peer": ("n2=h",)}, "--peer: must be HOST:PORT (n2) (got 'h')"),
        ({"id": "n1", "peer": ("n2=h:0",)}, "--peer: must be HOST:PORT (n2)"),
        ({"id": "n1", "peer": ("n2=h:70000",)}, "--peer: must be HOST:PORT (n2)"),
        ({"id": "n1", "peer": ("n2=0.0.0.0:1",)}, "--peer: must be an address that others can dial"),
        ({"id": "n1", "peer": ("N2=h:1",)}, "--peer: must name each peer by its id"),
        ({"id": "n1", "peer": ("n2=h:1", "n2=h:2")}, "--peer: names n2 twice"),
        ({"id": "n1", "peer": ("n2=h:1", "n3=h:1")}, "--peer: must give each peer its own address"),
        ({"id": "n1", "peer": tuple(f"p{i}=h:{i}" for i in range(1, 10))}, "--peer: must make a cluster of at most 9"),
        ({"http": ("localhost:8500",)}, "--http: must be an IP address and a port"),
        ({"http": ("127.0.0.1",)}, "--http: must be an IP address and a port"),
        ({"http": ("::1:8500",)}, "--http: must be an IP address and a port"),
        ({"http": ("127.0.0.1:65536",)}, "--http: must be an IP address and a port"),
        ({"http": ("127.0.0.1:1", "127.0.0.1:1")}, "--http: names an address twice"),
        ({"raft": "n1:8300"}, "--raft: must be an IP address and a port"),
        ({"raft": "0.0.0.0:8300"}, "--raft: beyond loopback needs certificates (--tls-cert, --tls-key, --tls-ca) or a"),
        ({"http": ("0.0.0.0:8500",)}, "--http: beyond loopback has no tokens yet and needs --http-insecure"),
        ({"http_advertise": "10.0.0.1:8500"}, "--http-advertise: must be a URL"),
        ({"http_advertise": "http://10.0.0.1:8500/v1"}, "--http-advertise: must be a URL"),
        ({"http_advertise": "http://0.0.0.0:8500"}, "--http-advertise: must be an address that others can dial"),
        ({"dns_advertise": "ns.example"}, "--dns-advertise: must be an IP address"),
        ({"raft_advertise": "10.0.0.1"}, "--raft-advertise: must be HOST:PORT"),
        ({"raft_secret_file": "/nowhere/secret"}, "--raft-secret-file: cannot be read: No such file or directory"),
        ({"dns_workers": 0}, "--dns-workers: must be 1..64 (got 0)"),
        ({"dns_ttl": -1}, "--dns-ttl: must be 0..2147483647"),
        ({"dns_udp_max": 511}, "--dns-udp-max: must be 512..4096"),
        ({"dns_max_answers": 101}, "--dns-max-answers: must be 1..100"),
        ({"dns_reverse_zones": ("10.0.0.1/8",)}, "--dns-reverse-zones: must be networks such as 10.0.0.0/8"),
        ({"log_format": "xml"}, "--log-format: must be text or json (got 'xml')"),
        ({"log_level": "loud"}, "--log-level: must be debug or info or warning or error"),
        ({"dns_forward": ("resolver.example",)}, "--dns-forward: must be an IP address with or without port, ZONE="),
        ({"dns_forward": ("10.0.0.1:0",)}, "--dns-forward: must have a port of 1..65535"),
        ({"dns_forward": ("0.0.0.0",)}, "--dns-forward: must be the address of one server"),
        ({"dns_forward": ("=10.0.0.1",)}, "--dns-forward: must name a zone before ="),
        ({"dns_forward": ("a b=10.0.0.1",)}, "--dns-forward: must name a zone before ="),
        ({"dns_forward": ("/nowhere",)}, "--dns-forward: cannot be read: No such file or directory (got '/nowhere')"),
        ({"dns_forward": ("127.0.0.1:8600",)}, "--dns-forward: is this server itself"),
        ({"dns_forward": ("[::1]:53",), "dns": ("[::]:53",)}, "--dns-forward: is this server itself"),
        ({"dns_forward": ("a.cluster.local=10.0.0.1",)}, "--dns-forward: must not name our own zone, or one in it"),
        (
            {"dns_forward": tuple(f"10.0.0.{number}" for number in range(1, 18))},
            "--dns-forward: must name at most 16 servers",
        ),
        ({"dns_forward_clients": ("10.0.0.1/8",)}, "--dns-forward-clients: must be networks such as 10.0.0.0/8"),
        ({"dns_consul_zone": "consul"}, "--dns-consul-zone: is not available in this version"),
        ({"tls_cert": "a.pem"}, "--tls-key (key tls.key): is required with the other two of --tls-cert, --tls-key and"),
        ({"tls_ca": "a.pem"}, "--tls-cert (key tls.cert): is required with the other two"),
        (
            {"tls_cert": "/no/a", "tls_key": "/no/b", "tls_ca": "/no/c"},
            "--tls-cert: /no/a cannot be read: No such file",
        ),
    ],
)
def test_a_flag_that_breaks_a_rule_is_named_with_the_rule(flags: dict[str, Any], message: str) -> None:
    assert refusal(**flags).startswith(message)


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ({"http": ("0.0.0.0:8500",), "http_insecure": True}, "--http-advertise (key http.advertise)"),
        ({"dns": ("[::]:8600",)}, "--dns-advertise (key dns.advertise)"),
        ({"raft": "0.0.0.0:8300"}, "--raft-advertise (key raft.advertise)"),
    ],
)
def test_with_peers_a_wildcard_needs_an_advertised_address(flags: dict[str, Any], key: str) -> None:
    assert refusal(id="n1", peer=("n2=10.0.0.2:8300",), **flags).startswith(f"{key}: is required with peers")


def test_alone_a_wildcard_needs_none() -> None:
    assert load(http=("0.0.0.0:8500",), http_insecure=True, dns=("0.0.0.0:8600",)).http.advertise == ""


def test_certificates_are_judged_before_the_start_but_not_by_the_time(tmp_path: Path) -> None:
    made = Authority(tmp_path)

    def flags(files: Files) -> dict[str, str]:
        return {"tls_cert": files.cert, "tls_key": files.key, "tls_ca": files.ca}

    assert load(id="n1", raft="10.0.0.1:8300", **flags(made.files("n1"))).tls.ca == str(made.ca)
    assert load(id="n1", **flags(made.files("n1", days=1, age_days=9))).tls.cert.endswith("n1.pem")
    shown = refusal(id="n2", **flags(made.files("n1")))
    assert shown.startswith(f"--tls-cert: {tmp_path}/n1.pem is not for node n2, whose id must be a DNS name in it (it")


def test_a_secret_too_short_to_resist_guessing_is_refused(tmp_path: Path) -> None:
    short = tmp_path / "secret"
    short.write_text("short\n")
    shown = refusal(raft_secret_file=str(short))
    assert shown.startswith("--raft-secret-file: must hold at least 16 bytes")
    assert "short\n" not in shown


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        ("host.example:1", ("host.example", 1)),
        ("::1:80", None),
        ("[host]:80", None),
        (":80", None),
        ("host", None),
        ("host:", None),
        ("host:x", None),
        ("host:٣", None),
        ("host:99999", None),
    ],
)
def test_addresses_are_split_at_the_last_colon_outside_brackets(text: str, parts: tuple[str, int] | None) -> None:
    assert config_rules.split_address(text) == parts
    if parts:
        assert config_rules.join_address(*parts) == text
