"""What real front ends and proxies say when something is wrong: Apache, nginx, stunnel.

Each answer has its verdict and its sentence, the same by both ways to the server.
"""

import datetime as dt

import pytest
import trustme
from answers import GOOD, run, statuses
from real_servers import apache, free_port, nginx, stunnel

from bulkfetch import RunRefused, Transient, Unauthorized
from bulkfetch._domain.errors import Diverted
from bulkfetch.testing import RawServer, http_answer

OK = http_answer(statuses(GOOD))
PAST = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def files(authority, tmp_path_factory):
    """Paths of PEM files: the authority, servers' certificates with their keys, a client's."""
    folder = tmp_path_factory.mktemp("certificates")

    def written(name, certificate):
        path = folder / f"{name}.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(path)
        return path

    authority.cert_pem.write_to_path(folder / "ca.pem")
    return {
        "cacert": folder / "ca.pem",
        "good": written("good", authority.issue_cert("127.0.0.1")),
        "expired": written("expired", authority.issue_cert("127.0.0.1", not_after=PAST)),
        "other": written("other", authority.issue_cert("other.example")),
        "own": written("own", trustme.CA().issue_cert("127.0.0.1")),
        "client": written("client", authority.issue_cert("client@example.org")),
        "stranger": written("stranger", trustme.CA().issue_cert("stranger@example.org")),
    }


async def verdict(url, **changes):
    """How one course ends there: type, kind, number of requests, message."""
    result = await run(endpoint=url, **{"retries": 0, "patience": 0} | changes)
    assert result.rows == {}
    error = result.failed["c1"]
    return type(error), error.kind, error.message


# stunnel in front of a service


@pytest.mark.parametrize(
    ("certificate", "kind", "words"),
    [
        ("expired", "certificate-expired", "has expired"),
        ("other", "certificate-name", "is not for this IP address"),
        ("own", "certificate", "--cacert"),
    ],
)
async def test_f04_a_certificate_of_stunnels(certificate, kind, words, files, tmp_path, way):
    """Expired, of another host, of an authority that nobody knows: each in its own words."""
    service = f"accept = PORT\nconnect = 127.0.0.1:{free_port()}\ncert = {files[certificate]}"
    with stunnel(tmp_path, service) as port:
        of, got, message = await verdict(f"https://127.0.0.1:{port}/", cacert=files["cacert"])
    assert (of, got) == (RunRefused, kind)
    assert words in message
    assert ("--cacert" in message) is (kind == "certificate")


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
async def test_f04_stunnel_wants_a_client_certificate(version, files, tmp_path, way):
    """Without one, with a stranger's, with the right one: --cert is named; refused; rows.

    Under TLS 1.3 a reset may overtake the alert: it is seen at the first try all the same.
    """
    async with RawServer(OK) as server:
        service = (
            f"accept = PORT\nconnect = 127.0.0.1:{server.port}\ncert = {files['good']}\n"
            f"CAfile = {files['cacert']}\nverifyChain = yes\nsslVersion = {version}"
        )
        with stunnel(tmp_path, service) as port:
            url = f"https://127.0.0.1:{port}/"
            trust = {"cacert": files["cacert"]}
            none = await verdict(url, **trust)
            wrong = await verdict(url, **trust, cert=files["stranger"])
            right = await run(endpoint=url, **trust, cert=files["client"])
    assert none[:2] == wrong[:2] == (RunRefused, "client-certificate")
    assert "--cert" in none[2]
    assert "does not accept the client certificate" in wrong[2]
    assert right.rows == {"c1": GOOD}


async def test_f04_stunnel_speaks_only_old_tls(files, tmp_path, way):
    """A server that offers 1.1 at most."""
    service = (
        f"accept = PORT\nconnect = 127.0.0.1:{free_port()}\ncert = {files['good']}\n"
        "sslVersion = TLSv1.1\nciphers = ALL:@SECLEVEL=0\nsecurityLevel = 0"
    )
    with stunnel(tmp_path, service) as port:
        of, kind, message = await verdict(f"https://127.0.0.1:{port}/", cacert=files["cacert"])
    assert (of, kind) == (RunRefused, "tls-version")
    assert "1.2 or 1.3" in message


async def test_f05_http_to_stunnel(files, tmp_path, way):
    """It ends the connection without a word, which other servers do for other reasons too."""
    service = f"accept = PORT\nconnect = 127.0.0.1:{free_port()}\ncert = {files['good']}"
    with stunnel(tmp_path, service) as port:
        of, kind, message = await verdict(f"http://127.0.0.1:{port}/")
    assert (of, kind) == (Transient, "disconnected")
    assert "if it speaks TLS, write https://" in message


async def test_nothing_behind_stunnel(files, tmp_path, way):
    """The connection is closed unanswered: that passes."""
    service = f"accept = PORT\nconnect = 127.0.0.1:{free_port()}\ncert = {files['good']}"
    with stunnel(tmp_path, service) as port:
        of, kind, _ = await verdict(f"https://127.0.0.1:{port}/", cacert=files["cacert"])
    assert (of, kind) == (Transient, "disconnected")


# nginx


async def test_f04_nginx_wants_a_client_certificate(files, tmp_path, way):
    """It says so with HTTP 400, after the handshake, and --cert is named."""
    server = (
        f"listen PORT ssl;\nssl_certificate {files['good']};\n"
        f"ssl_certificate_key {files['good']};\n"
        f"ssl_client_certificate {files['cacert']};\nssl_verify_client on;\n"
        "location / { return 503; }"
    )
    with nginx(tmp_path, server) as port:
        url = f"https://127.0.0.1:{port}/"
        none = await verdict(url, cacert=files["cacert"])
        wrong = await verdict(url, cacert=files["cacert"], cert=files["stranger"])
        right = await verdict(url, cacert=files["cacert"], cert=files["client"])
        plain = await verdict(f"http://127.0.0.1:{port}/")
    assert none[:2] == wrong[:2] == plain[:2] == (Diverted, "http-400")
    assert "name it with --cert" in none[2]
    assert "does not accept the client certificate: check --cert" in wrong[2]
    assert "use https in the endpoint" in plain[2]
    assert right[:2] == (Transient, "http-503")


@pytest.mark.parametrize(
    ("says", "of", "kind", "words"),
    [
        ("client_max_body_size 10;", Diverted, "http-413", "finds the request too large"),
        ("return 403;", Diverted, "http-403", "403 Forbidden"),
        ("return 401;", Unauthorized, "authorization-failed", "does not accept the token"),
        ("return 444;", Transient, "disconnected", "closed the connection unanswered"),
        ("return 302 https://login.example/;", Diverted, "redirect", "https://login.example"),
        ("", Diverted, "http-405", "it takes no POST there"),
        ("proxy_pass http://127.0.0.1:1;", Transient, "http-502", "HTTP 502"),
    ],
)
async def test_what_nginx_says(says, of, kind, words, tmp_path, way):
    """Its own pages, each under its status."""
    with nginx(tmp_path, f"listen PORT;\nlocation / {{ root {tmp_path}; {says} }}") as port:
        got = await verdict(f"http://127.0.0.1:{port}/error")
    assert got[:2] == (of, kind)
    assert words in got[2]


# Apache


def virtual_host(files, *lines):
    return "\n".join(
        [
            "Listen PORT",
            f"SSLEngine on\nSSLCertificateFile {files['good']}",
            f"SSLCACertificateFile {files['cacert']}",
            *lines,
        ]
    )


@pytest.mark.parametrize("protocol", ["TLSv1.2", "TLSv1.3"])
async def test_f04_apache_asks_for_a_certificate_for_a_path(protocol, files, tmp_path, way):
    """After the handshake, in the middle of the request: by renegotiation, or as 1.3 has it."""
    async with RawServer(OK) as server:
        lines = virtual_host(
            files,
            f"SSLProtocol -all +{protocol}",
            f"ProxyPass / http://127.0.0.1:{server.port}/",
            "<Location /soap>\nSSLVerifyClient require\n</Location>",
        )
        with apache(tmp_path, ["ssl", "socache_shmcb", "proxy", "proxy_http"], lines) as port:
            url = f"https://127.0.0.1:{port}/soap"
            trust = {"cacert": files["cacert"]}
            right = await run(["c1", "c2"], url, cert=files["client"], **trust)
            none = await verdict(url, **trust)
            wrong = await verdict(url, cert=files["stranger"], **trust)
            plain = await verdict(f"http://127.0.0.1:{port}/soap")
            elsewhere = await run(endpoint=f"https://127.0.0.1:{port}/free", **trust)
    assert right.rows == {"c1": GOOD, "c2": GOOD}
    assert elsewhere.rows == {"c1": GOOD}
    assert plain[:2] == (Diverted, "http-400")
    assert "use https in the endpoint" in plain[2]
    assert "--cert" in none[2]
    assert "does not accept the client certificate" in wrong[2]


AUTH = "AuthType Basic\nAuthName x\nAuthBasicProvider file\nAuthUserFile no\nRequire valid-user"


@pytest.mark.parametrize(
    ("says", "of", "kind", "words"),
    [
        ("LimitRequestBody 10", Diverted, "http-413", "finds the request too large"),
        ("Require all denied", Diverted, "http-403", "403 Forbidden"),
        ("Redirect 503 /", Transient, "http-503", "HTTP 503"),
        (AUTH, Unauthorized, "authorization-failed", "does not accept the token"),
        ("ProxyPass http://127.0.0.1:1/", Transient, "http-503", "HTTP 503"),
        ("ProxyPass http://127.0.0.1:GONE/", Transient, "http-502", "HTTP 502"),
    ],
)
async def test_what_apache_says(says, of, kind, words, tmp_path, way):
    """Its own pages and those of mod_proxy, each under its status."""
    async with RawServer(lambda exchange: exchange.reset()) as server:
        modules = ["proxy", "proxy_http", "alias", "auth_basic", "authn_file", "authz_user"]
        place = f"<Location />\n{says.replace('GONE', str(server.port))}\n</Location>"
        with apache(tmp_path, modules, f"Listen PORT\n{place}") as port:
            got = await verdict(f"http://127.0.0.1:{port}/error.log")
    assert got[:2] == (of, kind)
    assert words in got[2]


async def test_apache_as_a_proxy(files, tmp_path, way):
    """Named where it is to blame: nothing behind it, a port it forbids, a password it wants."""
    rest = "Listen PORT\nProxyRequests on\nAllowCONNECT 1\n<Proxy *>\nRequire all granted\n</Proxy>"
    with apache(tmp_path, ["proxy", "proxy_http", "proxy_connect"], rest) as port:
        proxy = f"http://127.0.0.1:{port}"
        async with RawServer(OK) as server:
            good = await run(endpoint=server.url, proxy=proxy)
        dead = await verdict("https://127.0.0.1:1/", proxy=proxy)
        forbidden = await verdict("https://127.0.0.1:2/", proxy=proxy)
        plain = await verdict("http://127.0.0.1:1/", proxy=proxy)
    assert good.rows == {"c1": GOOD}
    assert dead[:2] == (Transient, "proxy")
    assert forbidden[:2] == (RunRefused, "proxy")
    assert f"the proxy 127.0.0.1:{port}" in dead[2]
    assert "127.0.0.1:1 " in dead[2]
    assert "--proxy" in forbidden[2]
    assert plain[:2] == (Transient, "http-503")
