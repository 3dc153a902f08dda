"""Who gets in: whoever has the token, by an address of this machine, from a page of this server.

The rule this module keeps: nothing is answered before all of that is looked at. A server on the
loopback is reached by every page in the user's browser: a foreign name that resolves to 127.0.0.1
(DNS rebinding) comes with that name as `Host`, and another site's script with its own `Origin`.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

__all__ = ["HEADERS", "admission"]

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

#: With every answer. The terminal in the page makes its own style sheets.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "font-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def admission(token: str) -> Middleware:
    """The middleware before everything.

    Args:
        token: First part of every path; none is answered without it.
    """

    @web.middleware
    async def checked(request: web.Request, handler: _Handler) -> web.StreamResponse:
        why = _refusal(request, token)
        if why:
            return web.Response(status=403, text=f"{why}\n", headers=HEADERS)
        try:
            return await handler(request)
        except web.HTTPException as error:
            return web.Response(status=error.status, text=f"{error.reason}\n", headers=HEADERS)

    return checked


def _refusal(request: web.Request, token: str) -> str:
    """Why a request is not answered; empty if nothing speaks against it."""
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1 or _name_of(hosts[0]) not in _LOOPBACK:
        return "This server is for the machine it runs on: 127.0.0.1 or localhost."
    origins = request.headers.getall("Origin", [])
    if any(origin.lower() != f"http://{hosts[0]}".lower() for origin in origins):
        return "Another site's page asks for it."
    given = request.path.split("/")[1]
    if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
        return "The address lacks the token: open it as it was printed."
    return ""


def _name_of(host: str) -> str:
    """The name in a `Host`, without its port; empty if it is none."""
    try:
        parts = urlsplit(f"//{host}")
        # A port that is none raises; whatever else stands there is no host.
        return (parts.hostname or "") if parts.netloc == host and parts.port != 0 else ""
    except ValueError:
        return ""
