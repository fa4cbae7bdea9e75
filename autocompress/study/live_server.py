"""Serves the live page of a study over HTTP, to read and nothing else.

Off the loopback address whoever asks must know a token, drawn anew for each server. On any address the name that a
browser asked for must be one of this machine: a page of the web whose name was made to point here (DNS rebinding) is
refused.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import socket
from collections.abc import Mapping
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import msgspec

from autocompress.errors import AutocompressError, EnvironmentFault, InputError
from autocompress.study.live_page import LivePage

log = logging.getLogger(__name__)

COOKIE = "autocompress-token"
# By path, the text of the page and its kind.
TEXTS = {"/": ("page", "text/html"), "/content": ("content", "text/html"), "/trials.csv": ("csv", "text/csv"),
         "/trials.json": ("json", "application/json")}
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
           "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin"}


class LiveServer(ThreadingHTTPServer):
    """A server of one page.

    Args:
        page: what is served.
        host: the address or name of an interface of this machine.
        port: 0 for one that is free.

    Raises:
        InputError: where the host is none of this machine.
        EnvironmentFault: where the port is taken.
    """

    daemon_threads = True

    def __init__(self, page: LivePage, host: str, port: int) -> None:
        self.page, self._host = page, host
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        except (OSError, UnicodeError) as error:
            raise InputError(f"--host must be an address or a name of this machine, but {host!r} is none: "
                             f"{error}") from None
        self.address_family = family
        self._is_loopback = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
        self.token = "" if self._is_loopback else secrets.token_urlsafe(24)
        try:
            super().__init__((str(address[0]), port), _Handler)
        except OSError as error:
            raise EnvironmentFault(f"port {port} of {host} must be free, but: {error.strerror or error}; choose "
                                   "another --port, or 0 for one that is free") from None

    @property
    def url(self) -> str:
        """Where the page is, with the token where one is needed."""
        host, port = (socket.gethostname() if self._is_any else self._host), self.server_address[1]
        query = f"?token={self.token}" if self.token else ""
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/{query}"

    @property
    def _is_any(self) -> bool:
        return ipaddress.ip_address(str(self.server_address[0]).partition("%")[0]).is_unspecified

    def answers_to(self, name: str) -> bool:
        """Whether the name in a request's `Host` is one of this machine: nobody can make an address, or the name
        `localhost`, point elsewhere."""
        host = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            named = () if self._is_loopback else (self._host, socket.gethostname(), socket.getfqdn())
            return host.lower().rstrip(".") in {"localhost", *(each.lower() for each in named)}
        return address.is_loopback or not self._is_loopback

    def lets_in(self, token: str) -> bool:
        """Whether a token is the right one; any is where none is needed."""
        return not self.token or secrets.compare_digest(token.encode(), self.token.encode())

    def handle_error(self, request: object, client_address: object) -> None:
        """A reader that went away is no fault."""
        log.debug("a request of %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    server: LiveServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "autocompress", ""
    timeout = 30

    def do_GET(self) -> None:
        """One of the texts, or the state."""
        url = urlsplit(self.path)
        if not self.server.answers_to(self.headers.get("Host", "")):
            self._send(HTTPStatus.FORBIDDEN, "text/plain", "403: this name is none of the machine's: use the address "
                       "that `autocompress watch` printed")
            return
        token = parse_qs(url.query).get("token", [""])[0]
        if not self.server.lets_in(token or self._cookie()):
            self._send(HTTPStatus.UNAUTHORIZED, "text/plain", "401: the token is missing or another one: use the "
                       "address that `autocompress watch` printed")
            return
        cookie = {"Set-Cookie": f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"} if token else {}
        try:
            self._answer(url.path, cookie)
        except AutocompressError as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"503: {error}")

    do_HEAD = do_GET

    def _answer(self, path: str, cookie: Mapping[str, str]) -> None:
        if path == "/live":
            text = msgspec.json.encode(self.server.page.look()._asdict()).decode()
            self._send(HTTPStatus.OK, "application/json", text, cookie)
        elif path in TEXTS:
            name, kind = TEXTS[path]
            self._send(HTTPStatus.OK, kind, self.server.page.text(name), cookie)
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", "404: there is nothing here")

    def _cookie(self) -> str:
        try:
            kept = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            return ""
        return kept.value if kept is not None else ""

    def _send(self, status: HTTPStatus, kind: str, text: str, more: Mapping[str, str] | None = None) -> None:
        data = text.encode("utf-8", errors="backslashreplace")
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(data)),
                            **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are no news: their addresses hold the token."""
