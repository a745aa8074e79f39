"""Who may open the console."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lavla_ros.console.access import COOKIE, Access, AccessError, check_access

TOKEN = "0123456789abcdefgh"


def ask(access: Access, *, kind: str = "http", query: str = "", **headers: str) -> tuple[str, dict[str, str]]:
    """What happens to one request: "passed", the status, or the code of a closed websocket; and the headers."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": f"{kind}.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": "localhost:8420", **headers}
    encoded = [(name.encode(), value.encode()) for name, value in given.items()]
    scope = {"type": kind, "path": "/", "query_string": query.encode(), "headers": encoded}
    asyncio.run(access(scope, receive, send))
    first = sent[0]
    found = {name.decode(): value.decode() for name, value in first.get("headers", [])}
    return str(first.get("status") or first.get("code")), found


async def page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": f"{scope['type']}.response.start", "status": 200, "headers": []})


@pytest.mark.parametrize(("kind", "refused"), [("http", "403"), ("websocket", "1008")])
def test_without_a_token_this_computer_alone(kind: str, refused: str) -> None:
    access = Access(page, host="127.0.0.1")
    assert ask(access, kind=kind)[0] == "200"
    assert ask(access, kind=kind, origin="http://localhost:8420")[0] == "200"
    assert ask(access, kind=kind, origin="http://elsewhere.example")[0] == refused, "another site in the same browser"
    assert ask(access, kind=kind, host="rebound.example:8420")[0] == refused, (
        "a name that was made to mean this computer"
    )


@pytest.mark.parametrize(("kind", "refused"), [("http", "403"), ("websocket", "1008")])
def test_with_a_token_who_knows_it(kind: str, refused: str) -> None:
    access = Access(page, host="0.0.0.0", token=TOKEN)
    there = {"host": "10.0.0.7:8420"}
    for query, cookie in (("", ""), ("token=wrong", ""), ("", f"{COOKIE}={TOKEN}x"), ("", "not; a cookie=\x01")):
        assert ask(access, kind=kind, query=query, cookie=cookie, **there)[0] == refused, (query, cookie)
    status, headers = ask(access, kind=kind, query=f"token={TOKEN}", **there)
    assert status == "200"
    if kind == "http":
        assert headers["set-cookie"].startswith(f"{COOKIE}={TOKEN};") and "HttpOnly" in headers["set-cookie"]
    assert ask(access, kind=kind, cookie=f"a=b; {COOKIE}={TOKEN}", **there)[0] == "200"


@pytest.mark.parametrize(
    ("host", "token", "words"),
    [
        ("0.0.0.0", "", "give a --token"),
        ("10.0.0.7", "", "give a --token"),
        ("my-robot", "", "give a --token"),
        ("0.0.0.0", "short", "5 characters; expected 16"),
        ("127.0.0.1", "with spaces and ; in it", "letters, digits"),
    ],
)
def test_others_never_unasked(host: str, token: str, words: str) -> None:
    with pytest.raises(AccessError, match=words):
        check_access(host, token)


def test_this_computer_has_several_names() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        check_access(host, "")
