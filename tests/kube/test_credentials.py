"""Where the API server is and who we are, from a pod's service account or a kubeconfig; a real TLS server decides whether it holds."""

import base64
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from finetune_operator.kube.certificates import make_serving, rotate
from finetune_operator.kube.client import ApiClient, Unreachable
from finetune_operator.kube.credentials import Credentials, CredentialsError, read_kubeconfig, read_service_account

NOW = datetime.now(UTC)
AUTHORITY = rotate(None, NOW)
SERVING = make_serving(AUTHORITY.current, ("localhost",), NOW)
CLIENT = make_serving(AUTHORITY.current, ("me",), NOW)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, text in {
        "ca.crt": AUTHORITY.bundle,
        "client.crt": CLIENT.certificate,
        "client.key": CLIENT.key,
        "serving.pem": SERVING.certificate + SERVING.key,
        "token": "from-a-file\n",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
async def server(folder):
    """Answers with the token that came; its port."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"token": request.headers.get("Authorization")})

    app = web.Application()
    app.router.add_get("/whoami", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "serving.pem")
    await web.TCPSite(runner, "localhost", 0, ssl_context=context).start()
    yield f"https://localhost:{runner.addresses[0][1]}"
    await runner.cleanup()


async def who(credentials: Credentials) -> str | None:
    client = ApiClient(credentials)
    try:
        return (await client.request("GET", "/whoami"))["token"]
    finally:
        await client.close()


def kubeconfig(folder: Path, server: str, cluster: dict[str, Any], user: dict[str, Any] | None) -> Path:
    path = folder / "config"
    config = {
        "current-context": "here",
        "contexts": [{"name": "other", "context": {}}, {"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


CA_FILE, CA_DATA = {"certificate-authority": "ca.crt"}, {"certificate-authority-data": encoded(AUTHORITY.bundle)}


@pytest.mark.parametrize(
    ("cluster", "user", "token"),
    [
        (CA_FILE, {"token": "plain"}, "Bearer plain"),
        (CA_DATA, {"tokenFile": "token"}, "Bearer from-a-file"),
        ({"insecure-skip-tls-verify": True}, {"token": "plain"}, "Bearer plain"),
        (CA_DATA, {"client-certificate": "client.crt", "client-key": "client.key"}, None),
        (CA_DATA, {"client-certificate-data": encoded(CLIENT.certificate), "client-key-data": encoded(CLIENT.key)}, None),
        (CA_DATA, None, None),
    ],
)
async def test_a_kubeconfig_names_server_authority_and_user(folder, server, cluster, user, token) -> None:
    assert await who(read_kubeconfig(kubeconfig(folder, server, cluster, user))) == token


async def test_a_server_of_another_authority_is_not_spoken_to(folder, server) -> None:
    another = {"certificate-authority-data": encoded(rotate(None, NOW).bundle)}
    with pytest.raises(Unreachable, match="certificate"):
        await who(read_kubeconfig(kubeconfig(folder, server, another, {"token": "secret"})))


async def test_the_service_account_of_a_pod_is_used(folder, server) -> None:
    credentials = read_service_account(server, folder)
    assert await who(credentials) == "Bearer from-a-file"
    (folder / "token").write_text("renewed")
    assert credentials.read_token() == "renewed"


def test_outside_a_pod_it_is_said_what_is_missing(tmp_path) -> None:
    with pytest.raises(CredentialsError, match="token does not exist: not in a pod, and no kubeconfig is named"):
        read_service_account("https://x", tmp_path)


def test_plain_http_needs_no_certificates(folder) -> None:
    credentials = read_kubeconfig(kubeconfig(folder, "http://127.0.0.1:8001", {}, {}))
    assert (credentials.server, credentials.ssl_context, credentials.read_token()) == ("http://127.0.0.1:8001", None, None)


@pytest.mark.parametrize("plugin", ["exec", "auth-provider"])
def test_plugins_are_refused_in_words(folder, plugin) -> None:
    with pytest.raises(CredentialsError, match="credential plugins are not supported; use a token or a client certificate"):
        read_kubeconfig(kubeconfig(folder, "https://x", {}, {plugin: {"command": "x"}}))


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("contexts", "contexts has no entry named 'here'"),
        ("clusters", "clusters has no entry named 'c'"),
        ("users", "users has no entry named 'u'"),
    ],
)
def test_a_part_that_is_missing_is_named(folder, missing, words) -> None:
    path = kubeconfig(folder, "https://x", {}, {})
    config = yaml.safe_load(path.read_text())
    config[missing] = None
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(CredentialsError, match=words):
        read_kubeconfig(path)
