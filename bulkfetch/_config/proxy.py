"""The proxy's address; its password is taken out at once, since messages may show the rest."""

from __future__ import annotations

import re
from urllib.parse import unquote

from bulkfetch._config.setting import Secret
from bulkfetch._domain.errors import ConfigurationError

_WITH_USER = re.compile(r"(https?://)[^/?#@:]*@([^/?#@]+/?)")


def split_proxy(proxy: str | None) -> tuple[str | None, Secret | None]:
    """Return a proxy's URL without its password, and the password."""
    if not isinstance(proxy, str):  # of another type: told by who checks the types
        return proxy, None
    bare, password = split_password(proxy)
    return bare, Secret(unquote(password)) if password else None


def split_password(url: str) -> tuple[str, str]:
    """Return a URL without its password, and the password as it stands there."""
    found = re.fullmatch(r"([^/?#]*//[^/?#]*?):([^/?#]*)(@[^/?#@]*.*)", url, re.DOTALL)
    return (found[1] + found[3], found[2]) if found else (url, "")


def without_user(url: str) -> str:
    """Return the address alone; raises ConfigurationError for what is no HTTP proxy's."""
    scheme = url.partition(":")[0].lower()
    if scheme.startswith("socks"):
        raise ConfigurationError(
            f"proxy begins with {scheme}://: only HTTP proxies are supported, written as "
            "http://HOST:PORT; most SOCKS servers have an HTTP port too"
        )
    if "@" in url and not _WITH_USER.fullmatch(url):  # without the URL: it may hold a password
        raise ConfigurationError(
            "proxy is not like http://NAME@HOST:PORT: write /, ?, #, : and @ in a name or password "
            "as %2F, %3F, %23, %3A and %40"
        )
    return _WITH_USER.sub(r"\1\2", url)
