"""Who may open the console: this computer, and whoever has the token if it listens for others.

A middleware before everything, websockets included. A browser gives the token once, in the address that the console
prints (``?token=…``), and has it in a cookie from then on.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from lavla_ros.errors import UserError

COOKIE = "lavla_console"
MIN_TOKEN = 16
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


class AccessError(UserError, ValueError):
    """The console must not, or cannot, listen like this."""


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Access:
    """Lets requests through to ``app``, or answers 403."""

    def __init__(self, app: App, *, host: str, token: str = "") -> None:
        """Raises AccessError if others can reach ``host`` and no token, or a short one, is asked of them."""
        check_access(host, token)
        self._app, self._token, self._local = app, token, is_loopback(host)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(headers, scope.get("query_string", b"").decode("latin-1"))
        if refusal:
            await _refuse(scope, receive, send, refusal)
        elif self._token and scope["type"] == "http":
            await self._app(scope, receive, self._with_cookie(send))
        else:
            await self._app(scope, receive, send)

    def _refusal(self, headers: dict[str, str], query: str) -> str:
        if self._token:
            given = [*parse_qs(query).get("token", []), _cookie(headers.get("cookie", ""))]
            if not any(hmac.compare_digest(each.encode(), self._token.encode()) for each in given):
                return "This console asks for its token: open the address that it has printed, with ?token=…"
        # A page of another site must not speak with this one through the browser of whoever sits here.
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if origin and origin.partition("://")[2] != host:
            return f"A page of {origin} may not use this console."
        if self._local and not is_loopback(host.rpartition(":")[0] or host):
            return f"This console is reached as localhost, not as {host}."
        return ""

    def _with_cookie(self, send: Any) -> Any:
        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                cookie = f"{COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/"
                message["headers"] = [*message.get("headers", ()), (b"set-cookie", cookie.encode())]
            await send(message)

        return sending


def check_access(host: str, token: str) -> None:
    """Raises AccessError if others can reach ``host`` and no token, or a short one, is asked of them."""
    if token and (
        len(token) < MIN_TOKEN or not token.isascii() or not token.replace("-", "").replace("_", "").isalnum()
    ):
        raise AccessError(
            f"the token has {len(token)} characters; expected {MIN_TOKEN} or more letters, digits, - and _ (such as "
            'of python -c "import secrets; print(secrets.token_urlsafe())")'
        )
    if not is_loopback(host) and not token:
        raise AccessError(f"with --host {host} others can reach the console and move the arm: give a --token as well")


def listening_at(host: str, port: int) -> socket.socket:
    """A socket for the page; port 0 is any free one.

    Raises AccessError if the port is taken, or the address is not this computer's.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        said = error.strerror or error
        raise AccessError(f"cannot listen on {host}:{port}: {said}; choose another --port") from None


def address_of(listening: socket.socket, host: str, token: str) -> str:
    """What a browser has to open."""
    shown = "localhost" if is_loopback(host) else host
    return f"http://{shown}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")


def serve(web: App, listening: socket.socket) -> None:
    """Until SIGINT or SIGTERM."""
    import uvicorn  # comes with NiceGUI, which a console needs and nothing else

    config = uvicorn.Config(web, log_level="warning", timeout_graceful_shutdown=1, ws="websockets-sansio")
    uvicorn.Server(config).run([listening])


async def _refuse(scope: Scope, receive: Any, send: Any, why: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    body = why.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _cookie(text: str) -> str:
    try:
        found = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""
