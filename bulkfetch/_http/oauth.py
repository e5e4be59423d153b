"""A token from a token endpoint, by OAuth 2.0 client credentials (RFC 6749, section 4.4).

Every message names the endpoint, so that none is taken for the API's.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

import orjson

from bulkfetch._config.setting import Secret
from bulkfetch._domain.errors import CourseError, RunRefused, StaleConnection, Transient
from bulkfetch._domain.retry_after import asked_pause
from bulkfetch._domain.text import printable
from bulkfetch._http.transport import Sealed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkfetch._config.options import Options
    from bulkfetch._http.transport import Reply, Transport

_MAX_ANSWER: Final = 64 << 10
_USUAL_LIFETIME: Final = 1800.0
_HTML: Final = re.compile(rb"\s*<(?:!doctype html|html|head|body)\b", re.IGNORECASE)


async def ask_endpoint(options: Options, transport: Transport) -> tuple[Secret, float]:
    """Return a token and its lifetime in seconds. Raises CourseError, RunRefused among them."""
    url = str(options.token_url)
    name = f"the token endpoint {urlsplit(url).netloc}"
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
    }
    try:
        try:
            reply, body = await _post(transport, url, _form(options), headers)
        except StaleConnection:  # the server closed a kept connection: no fault of anybody
            reply, body = await _post(transport, url, _form(options), headers)
    except CourseError as error:
        error.args = (f"{name}: {error.message}",)
        raise
    pause = asked_pause(reply.headers, time.time())
    if verdict := refusal(name, reply.status, body, options, pause=pause):
        raise verdict
    return read_answer(name, body)


def _form(options: Options) -> Sealed:
    return Sealed(
        urlencode(
            {
                "client_id": options.client_id,
                "client_secret": Secret(options.client_secret or "").reveal(),
                "grant_type": "client_credentials",
            }
        ).encode()
    )


async def _post(
    transport: Transport, url: str, form: Sealed, headers: Mapping[str, str]
) -> tuple[Reply, Sealed]:
    body = Sealed()
    async with transport.post(url, form, headers) as reply:
        while len(body) < _MAX_ANSWER and (piece := Sealed(await reply.read())):
            body = Sealed(body + piece)
    return reply, body


def refusal(
    name: str, status: int, body: bytes, options: Options, *, pause: float | None = None
) -> CourseError | None:
    """Judge what the endpoint answers; None when it may be a token."""
    if 200 <= status < 300:
        return None
    words = _endpoints_words(body, options)
    said = f"{name} answers HTTP {status}{words}"
    page = "; what came is an HTML page" if _HTML.match(body) else ""
    if status in {408, 429} or status >= 500:
        return Transient("token", said, retry_after=pause, overload=True)
    if 300 <= status < 400:
        return RunRefused("token", f"{said}: check --token-url, redirects are not followed")
    if status in {404, 405, 410}:
        return RunRefused("token", f"{said}: check --token-url{page}")
    return RunRefused(
        "token",
        f"{name} refuses with HTTP {status}{words}: "
        f"check --token-url, the client id and the client secret{page}",
    )


def _endpoints_words(body: bytes, options: Options) -> str:
    """Return what the endpoint says of an error, cleaned and in brackets; nothing if nothing.

    `error` and `error_description` are OAuth's (RFC 6749, 5.2), `message` is iSpring's.
    """
    answer = _json_object(body)
    parts = [answer.get(key) for key in ("error", "error_description", "message")]
    words = ": ".join(part for part in parts if isinstance(part, str) and part)
    for secret in (options.client_secret, options.token):
        words = Secret(secret).hidden_in(words) if secret else words
    return f" ({printable(words)})" if words else ""


def read_answer(name: str, body: bytes) -> tuple[Secret, float]:
    answer = _json_object(body)
    token, lifetime = answer.get("access_token"), answer.get("expires_in")
    if not isinstance(token, str) or not token.strip() or not token.strip().isprintable():
        page = " with an HTML page, perhaps a login page," if _HTML.match(body) else ""
        raise RunRefused(
            "token", f"{name} answers{page} without an access_token: check the path of --token-url"
        )
    return Secret(token.strip()), _seconds(lifetime)


def _seconds(lifetime: object) -> float:
    """Return a token's lifetime; half an hour if the endpoint says nothing sensible."""
    try:
        seconds = 0.0 if isinstance(lifetime, bool) else float(str(lifetime))
    except ValueError:
        return _USUAL_LIFETIME
    return seconds if 0 < seconds < float("inf") else _USUAL_LIFETIME


def _json_object(body: bytes) -> dict[str, object]:
    try:
        answer = orjson.loads(bytes(body))  # orjson takes no subclass
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}
