"""Who may ask: this page on this machine, with the token; everything else is refused before anything is looked up."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OWN_STYLE = "sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE="
"""The one style that OpenSeadragon 6.1.1 adds by itself: no focus ring on touch screens."""
CSP = (
    f"default-src 'none'; script-src 'self'; style-src 'self' '{_OWN_STYLE}'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
LONGEST = 512
"""Characters of a path and of a query; our own are below 200."""
LARGEST = 64 << 10
"""Bytes of a body: a drawn outline."""

_PATH = re.compile(rb"(?:/[A-Za-z0-9_-]+(?:\.[a-z]+)?)*/?")
_QUERY = re.compile(rb"[A-Za-z0-9_.=&-]*")
_LOCAL = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?")


class Guard:
    """Refuses what does not come from the page itself, and adds the headers that keep the page to itself.

    Refused are other ``Host`` names (a name that was pointed at this machine), other ``Origin`` and cross-site
    requests, paths with anything but plain names (so no ``..``, no encoding, no NUL), paths without the token, other
    methods than GET, HEAD and POST, and long bodies.

    Parameters
    ----------
    app : ASGI application
        Sees paths without the token.
    token : str
        First part of every path.
    """

    def __init__(self, app: App, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        verdict = refusal(scope, self._token)
        if verdict is not None:
            await _say(send, *verdict)
            return

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", []))
                message["headers"] = [*given, *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        rest = scope["path"][1 + len(self._token) :] or "/"
        await self._app({**scope, "path": rest, "raw_path": rest.encode()}, receive, answer)


def refusal(scope: Scope, token: str) -> tuple[int, str] | None:
    """Status and reason with which a request is refused, or None."""
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    hosts = headers.get("host", [])
    if len(hosts) != 1 or not _LOCAL.fullmatch(hosts[0]):
        return 403, "this page is served to this machine only"
    if any(origin != f"http://{hosts[0]}" for origin in headers.get("origin", [])):
        return 403, "this page answers itself only"
    if any(site not in {"same-origin", "none"} for site in headers.get("sec-fetch-site", [])):
        return 403, "this page answers itself only"
    path, query = scope.get("raw_path") or scope["path"].encode("latin-1", "replace"), scope["query_string"]
    path = path.partition(b"?")[0]
    if len(path) > LONGEST or len(query) > LONGEST:
        return 414, "too long"
    if not _PATH.fullmatch(path) or not _QUERY.fullmatch(query):
        return 400, "not an address of this page"
    if not secrets.compare_digest(path.split(b"/")[1], token.encode()):
        return 403, "the address needs the token that was printed"
    if scope["method"] not in {"GET", "HEAD", "POST"}:
        return 405, "only GET and POST"
    if scope["method"] == "POST":
        length = headers.get("content-length", [""])[0]
        if not length.isdecimal():
            return 411, "a body needs its length"
        if len(length) > 9 or int(length) > LARGEST:
            return 413, "too large"
    return None


async def _say(send: Send, status: int, reason: str) -> None:
    head = [(b"content-type", b"text/plain; charset=utf-8"), *((k.encode(), v.encode()) for k, v in HEADERS.items())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
