from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from discovery.cli.client import BadServer, Client, Unreachable, path, with_query


def closed_port() -> str:
    """A server that is not there."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def client_of() -> Iterator[Callable[..., Client]]:
    """Makes clients that are closed afterwards."""
    made: list[Client] = []

    def make(*servers: str, **more: str) -> Client:
        made.append(Client(servers, **more))
        return made[-1]

    yield make
    for client in made:
        client.close()


def test_segments_are_encoded_whole() -> None:
    assert path("services", "a/b ü") == "/api/v1/services/a%2Fb%20%C3%BC"


def test_parameters_that_are_not_given_are_left_out() -> None:
    assert with_query("/x", {"a": None, "b": 0, "c": "1 2"}) == "/x?b=0&c=1+2"
    assert with_query("/x", {"a": None}) == "/x"


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:99999", "http://[::1", "//"])
def test_a_url_that_is_no_server_is_refused(url: str) -> None:
    with pytest.raises(BadServer, match="HOST:PORT"):
        Client([url])


def test_the_scheme_may_be_left_out(client_of, server) -> None:
    assert client_of(server.url.removeprefix("http://")).get("/x").ok


def test_one_connection_serves_many_requests(client_of, server) -> None:
    client = client_of(server.url)
    for _ in range(3):
        assert client.get("/x").ok
    assert len({asked.port for asked in server.asked}) == 1


def test_a_connection_the_server_closed_is_opened_again(client_of, server) -> None:
    server.will_answer((200, {}, {"Connection": "close"}), (200, {}))
    client = client_of(server.url)
    assert client.get("/a").ok
    assert client.get("/b").ok
    assert len({asked.port for asked in server.asked}) == 2


def test_a_server_that_is_not_there_is_passed_over_and_asked_last_from_then_on(client_of, server) -> None:
    client = client_of(closed_port(), server.url)
    assert client.get("/x").server == server.url
    assert client._connections[0].url == server.url


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_server_that_cannot_now_is_passed_over(client_of, server, second_server, status: int) -> None:
    server.will_answer((status, {}))
    answer = client_of(server.url, second_server.url).write("PUT", "/x", {"a": 1})
    assert answer.server == second_server.url


def test_a_repeated_write_carries_the_same_idempotency_key(client_of, server, second_server) -> None:
    server.will_answer((504, {}))
    client_of(server.url, second_server.url).write("PUT", "/x", b"1")
    assert server.asked[0].headers["Idempotency-Key"] == second_server.asked[0].headers["Idempotency-Key"]


def test_two_writes_carry_different_idempotency_keys(client_of, server) -> None:
    client = client_of(server.url)
    client.write("PUT", "/x", b"1")
    client.write("PUT", "/x", b"1")
    assert len({asked.headers["Idempotency-Key"] for asked in server.asked}) == 2


def test_the_last_refusal_is_the_answer_when_every_server_refuses(client_of, server) -> None:
    server.will_answer((503, {"detail": "no leader"}))
    assert client_of(closed_port(), server.url).get("/x").status == 503


def test_a_refusal_of_the_request_itself_is_final(client_of, server, second_server) -> None:
    server.will_answer((400, {}))
    assert client_of(server.url, second_server.url).get("/x").status == 400
    assert second_server.asked == []


def test_no_server_at_all_is_said_for_each(client_of) -> None:
    first, second = closed_port(), closed_port()
    with pytest.raises(Unreachable, match=f"(?s){first}: Connection refused.*{second}: Connection refused"):
        client_of(first, second).get("/x")


def test_a_server_that_does_not_answer_in_time_is_passed_over(client_of, server) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = client_of(f"http://127.0.0.1:{silent.getsockname()[1]}", server.url)
        assert client.send("GET", "/x", timeout_s=0.1).server == server.url


def test_the_token_is_sent(client_of, server) -> None:
    client_of(server.url, token="secret").get("/x")
    assert server.asked[0].headers["Authorization"] == "Bearer secret"
