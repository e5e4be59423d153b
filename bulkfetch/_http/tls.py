"""Certificates: ours and whom we trust, and what a failed handshake means.

Each trouble has a kind and a sentence of its own, with the advice that fits: only an unknown
authority is mended by --cacert. All but a handshake that breaks off would meet every course alike,
so they end the run.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import TYPE_CHECKING, Final

from yarl import URL

from bulkfetch._domain.errors import (
    ConfigurationError,
    CourseError,
    LocalFault,
    RunRefused,
    Transient,
)
from bulkfetch._domain.text import printable
from bulkfetch._http.shortage import local_fault

if TYPE_CHECKING:
    from pathlib import Path

    from bulkfetch._config.options import Options

_VERDICTS: Final = {
    9: ("certificate-expired", "is not valid yet: check this machine's clock"),
    10: ("certificate-expired", "has expired: its owner must renew it"),
    23: ("certificate-revoked", "was revoked: its owner must replace it"),
    62: ("certificate-name", "is for another host name: check the host in the address"),
    64: ("certificate-name", "is not for this IP address: write the host's name instead"),
}
"""By OpenSSL's X509_V_ERR number."""
_UNKNOWN: Final = {2, 18, 19, 20, 21, 27}

_ALERTS: Final = (
    (
        r".*VERSION_NUMBER|HTTPS?_(PROXY_)?REQUEST|PACKET_LENGTH_TOO_LONG|RECORD_.*|.*RECORD_TYPE",
        "no-tls",
        "does not speak TLS at this port: check the port, or write http://",
    ),
    (
        r"UNSUPPORTED_PROTOCOL|.*PROTOCOL_VERSION|.*SSL_VERSION|VERSION_TOO_LOW|NO_PROTOCOLS.*",
        "tls-version",
        "speaks only versions of TLS that are not safe: it must offer 1.2 or 1.3",
    ),
    (
        ".*UNRECOGNIZED_NAME",
        "certificate-name",
        "does not know this host name: check the host in the address",
    ),
)
_OURS: Final = re.compile(
    ".*ALERT_(CERTIFICATE_REQUIRED|NO_CERTIFICATE|BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE"
    "|CERTIFICATE_(UNKNOWN|EXPIRED|REVOKED)|UNKNOWN_CA|ACCESS_DENIED)"
)
_NAMED: Final = re.compile(r"\[(?:SSL|X509): (\w+)\]")
_LONGEST_LISTENING: Final = 2.0
"""Seconds to wait for an alert: one comes within a round trip of the handshake."""
_BROKEN_OFF: Final = re.compile("UNEXPECTED_EOF.*|.*ALERT_(INTERNAL_ERROR|USER_CANCELLED)")


class Trust:
    """The TLS context of a run. Made at once, so that a wrong setting is told before any request.

    Should this machine be short of files just then, it is made at the first request that can.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._context: ssl.SSLContext | bool | None = None
        try:
            self.context()
        except LocalFault:
            self._context = None

    def context(self) -> ssl.SSLContext | bool:
        """Return the context; True stands for the system's defaults. Raises LocalFault."""
        if self._context is None:
            self._context = tls_context(self._options) or True
        return self._context


def tls_context(options: Options) -> ssl.SSLContext | None:
    """Return the context for --cacert and --cert; None when the system's defaults do.

    Raises ConfigurationError for files that do not serve, LocalFault when none can be opened.
    """
    if not (options.cacert or options.cert):
        return None
    try:
        context = ssl.create_default_context(cafile=options.cacert)
        if options.cert:
            _load(context, options.cert, options.key or options.cert)
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise local_fault(error) or _unusable(options, reason) from None
    except ValueError as error:
        raise _unusable(options, str(error)) from None
    return context


def _load(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Load a client certificate; raises ValueError in words, OSError."""
    held = key.read_bytes()
    if b"PRIVATE KEY-----" not in held:
        raise ValueError(f"{key} holds no private key: name the file that does with --key")
    if b"ENCRYPTED" in held:  # OpenSSL would ask for the password at the terminal, and wait
        raise ValueError(
            f"the private key in {key} is encrypted: write it without a password into a file that "
            "only you can read, as openssl pkey does, and name that with --key"
        )
    try:
        context.load_cert_chain(cert, key)
    except ssl.SSLError as error:
        if error.reason != "KEY_VALUES_MISMATCH":
            raise
        raise ValueError(f"the private key in {key} does not belong to it") from None
    context.post_handshake_auth = True  # Apache asks for certificates by path, after the handshake


def _unusable(options: Options, reason: str) -> ConfigurationError:
    names = ", ".join(str(path) for path in (options.cacert, options.cert, options.key) if path)
    return ConfigurationError(f"cannot use the certificates in {names}: {reason}")


def tls_reason(error: BaseException) -> str:
    """Return OpenSSL's name for what broke TLS, its number for a certificate; nothing if not TLS.

    aiohttp hands on what happened after the handshake as an error without its type.
    """
    for one in (getattr(error, "certificate_error", None), getattr(error, "os_error", None), error):
        if isinstance(one, ssl.SSLCertVerificationError):
            return str(getattr(one, "verify_code", 0))
        if isinstance(one, ssl.SSLError):
            return getattr(one, "reason", None) or "SSL"
    named = _NAMED.match(error.strerror or "") if isinstance(error, OSError) else None
    return named[1] if named else ""


class LateAlerts:
    """What servers say of our certificate behind the handshake; each is asked once.

    Under TLS 1.3 a server judges a client's certificate when the handshake has ended for the
    client. It may reset the connection behind its alert, and a request written then fails before
    the alert was read. So this connects once more and only listens: for nothing else than that, and
    only to a server that has answered nothing yet.
    """

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._said: dict[str, str] = {}

    def answered(self, url: str) -> None:
        """Let the server at this address never be asked."""
        self._said[url] = ""

    async def at(self, url: str) -> str:
        """Return the alert's name as `tls_reason` does; nothing if none is known."""
        if url not in self._said:
            self._said[url] = ""  # whoever comes meanwhile tries again in any case
            self._said[url] = await self._listen(URL(url))
        return self._said[url]

    async def _listen(self, url: URL) -> str:
        host, writer, reason = url.raw_host or "", None, ""
        try:
            async with asyncio.timeout(_LONGEST_LISTENING):
                reader, writer = await asyncio.open_connection(
                    host,
                    url.port,
                    ssl=self._trust.context(),
                    server_hostname=host.rstrip("."),
                )
                await reader.read(1)
        except OSError as error:  # ssl.SSLError and TimeoutError are some
            reason = tls_reason(error)
        except (CourseError, ValueError, RuntimeError):
            pass  # short of files or threads, or no name for Python: nothing was heard
        finally:
            if writer is not None:
                writer.transport.abort()
        return reason if _OURS.fullmatch(reason) else ""


def tls_trouble(reason: str, name: str, *, certified: bool) -> CourseError:
    """Say what a TLS failure with `name` means; `certified`: a client certificate was there."""
    if reason.isdigit():
        return _untrusted(int(reason), name)
    if _BROKEN_OFF.fullmatch(reason):
        return Transient("tls", f"{name} broke the TLS handshake off ({printable(reason)})")
    if _OURS.fullmatch(reason) or (reason.endswith("ALERT_HANDSHAKE_FAILURE") and not certified):
        return _client_certificate(reason, name, certified=certified)
    for pattern, kind, words in _ALERTS:
        if re.fullmatch(pattern, reason):
            return RunRefused(kind, f"{name} {words}")
    return RunRefused("tls-handshake", f"TLS with {name} fails ({printable(reason)})")


def _untrusted(code: int, name: str) -> RunRefused:
    kind, words = _VERDICTS.get(code, ("certificate", "cannot be trusted"))
    if code in _UNKNOWN:
        words = "comes from an authority that is not known here: name that with --cacert"
    return RunRefused(kind, f"the certificate of {name} {words}")


def _client_certificate(reason: str, name: str, *, certified: bool) -> RunRefused:
    if certified:
        words = f"does not accept the client certificate of --cert ({printable(reason)})"
    elif _OURS.fullmatch(reason):
        words = "asks for a client certificate: name it with --cert, and its key with --key"
    else:
        words = (
            "ends the TLS handshake: perhaps it asks for a client certificate (--cert, --key), "
            "perhaps there is no cipher that both know"
        )
    return RunRefused("client-certificate", f"{name} {words}")
