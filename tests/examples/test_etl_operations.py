"""examples/etl over sockets: TLS and the token, kept connections, the end of the server."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trustme
from etl_kit import FakeTarget, Peer, Upper, ask, build, node_url, open_etl, open_peer, open_target
from wire import HOST, RawConnection, Truncated, open_guarded, open_raw

from tsstream import serve

ROOT = Path(__file__).parents[2]


@attrs.frozen
class Certificates:
    """An authority, a server's and a client's certificate, as files; and another authority."""

    authority: Path
    chain: Path
    key: Path
    other: Path


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    authority, other = trustme.CA(), trustme.CA()
    issued = authority.issue_cert(HOST)
    files = Certificates(*(tmp_path / name for name in ("ca", "chain", "key", "other")))
    authority.cert_pem.write_to_path(files.authority)
    other.cert_pem.write_to_path(files.other)
    files.chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(files.key)
    return files


@asynccontextmanager
async def open_secure_target(certificates: Certificates) -> AsyncIterator[FakeTarget]:
    """Serve a target over TLS that wants to see a certificate of its clients."""
    target = FakeTarget(objects={"obj": b"data"})
    app = target.app()
    async with open_guarded(
        app,
        certfile=str(certificates.chain),
        keyfile=str(certificates.key),
        ca_certs=str(certificates.authority),
        verify_mode=ssl.CERT_REQUIRED,
    ) as port:
        target.url = node_url(port).replace("http:", "https:")
        yield target


@pytest.mark.parametrize(
    ("trust", "own", "statuses"),
    [
        ({"AIS_CLIENT_CA": "authority"}, True, (200, 204)),
        ({"AIS_SKIP_VERIFY_CRT": "true"}, True, (200, 204)),
        ({"AIS_CLIENT_CA": "other"}, True, (502, 503)),
        ({}, True, (502, 503)),
        ({"AIS_CLIENT_CA": "authority"}, False, (502, 503)),
    ],
)
async def test_tls_with_the_certificates_of_the_environment(  # ET-50
    certificates: Certificates, trust: dict[str, str], own: bool, statuses: tuple[int, int]
) -> None:
    env = {name: str(getattr(certificates, value, value)) for name, value in trust.items()}
    if own:
        env |= {"AIS_CRT": str(certificates.chain), "AIS_CRT_KEY": str(certificates.key)}
    async with open_secure_target(certificates) as target:
        async with open_etl(Upper, target.url, AIS_DIRECT_PUT_RETRIES=0, **env) as port:
            got = await ask(port, "GET", "/obj")
            put = await ask(port, "PUT", "/b/o", {"ais-node-url": f"{target.url}/new"}, b"data")
    assert (got[0], put[0]) == statuses
    if statuses[0] == 200:
        assert got[2] == b"DATA"
        assert target.objects["new"] == b"DATA"


async def test_the_token_goes_to_the_nodes() -> None:  # ET-50
    async with open_target(obj=b"data") as target:
        async with open_etl(Upper, target.url, AIS_AUTHN_TOKEN="secret") as port:
            await ask(port, "GET", "/obj", {"ais-node-url": f"{target.url}/new"})
    assert [seen[0] for seen in target.seen] == ["GET", "PUT"]
    assert [seen[2]["authorization"] for seen in target.seen] == ["Bearer secret"] * 2


@pytest.mark.parametrize(("env", "connections"), [({}, 1), ({"MAX_KEEPALIVE_CONN": "0"}, 3)])
async def test_connections_to_the_target_are_kept(  # ET-51
    env: dict[str, str], connections: int
) -> None:
    async def talk(peer: Peer, raw: RawConnection) -> None:
        while True:
            await peer.read_head(raw)
            await raw.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndata")

    async with open_peer(talk) as peer, open_etl(Upper, peer.url, **env) as port:
        for _ in range(3):
            assert (await ask(port, "GET", "/obj"))[2] == b"DATA"
    assert (len(peer.heads), len(peer.times)) == (3, connections)


async def test_there_are_so_many_connections_and_no_more() -> None:  # ET-51
    release, most = trio.Event(), 0
    running = 0

    async def talk(peer: Peer, raw: RawConnection) -> None:
        nonlocal running, most
        await peer.read_head(raw)
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1
        await raw.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndata")

    async with open_peer(talk) as peer:
        async with open_etl(Upper, peer.url, MAX_CONN=3, MAX_TRANSFORMS=8) as port:
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(ask, port, "GET", "/obj")
                await trio.sleep(0.2)
                assert (most, len(peer.heads)) == (3, 3)
                release.set()
    assert most == 3
    assert len(peer.heads) == 6


@asynccontextmanager
async def open_command(target: str, grace: float) -> AsyncIterator[tuple[int, trio.Process]]:
    """Run the application as one does, and give the port and the process."""
    command = [sys.executable, "-m", "tsstream", "run", "examples.etl.upper:app"]
    options = ["--bind", f"{HOST}:0", "--graceful-timeout", str(grace)]
    run = partial(
        trio.run_process,
        [*command, *options],
        check=False,
        cwd=ROOT,
        env={**os.environ, "AIS_TARGET_URL": target, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    )
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(run)
        said = b""
        with trio.fail_after(20):
            while b"Running on" not in said or not said.endswith(b"\n"):
                said += await process.stdout.receive_some()  # type: ignore[union-attr]
        address = said.partition(b"Running on ")[2].split()[0]
        yield int(address.rpartition(b":")[2]), process
        nursery.cancel_scope.cancel()


async def test_sigterm_lets_an_object_end_in_time() -> None:  # ET-52
    go_on = trio.Event()

    async def talk(peer: Peer, raw: RawConnection) -> None:
        await peer.read_head(raw)
        await raw.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
        await go_on.wait()
        await raw.send_all(b"rest")
        assert not await raw.stream.receive_some()  # closed by the server

    async with open_peer(talk) as peer, open_command(peer.url, 5) as (port, process):
        async with open_raw(port) as raw:
            await raw.request("GET", "/obj")
            assert (await raw.read_head())[0] == 200
            assert await raw.read_chunk() == b"HALF"
            process.send_signal(signal.SIGTERM)
            await trio.sleep(0.1)
            with pytest.raises(OSError):  # noqa: PT011 (any: nobody listens)
                await trio.open_tcp_stream(HOST, port)
            go_on.set()
            assert await raw.read_body() == b"REST"
        with trio.fail_after(3):
            assert await process.wait() == 0


async def test_sigterm_cuts_an_object_that_takes_longer() -> None:  # ET-52
    left = trio.Event()

    async def talk(peer: Peer, raw: RawConnection) -> None:
        await peer.read_head(raw)
        await raw.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
        try:
            assert not await raw.stream.receive_some()
        finally:
            left.set()

    async with open_peer(talk) as peer, open_command(peer.url, 0.3) as (port, process):
        async with open_raw(port) as raw:
            await raw.request("GET", "/obj")
            await raw.read_head()
            start = trio.current_time()
            process.send_signal(signal.SIGTERM)
            with pytest.raises(Truncated):
                await raw.read_body()
            assert 0.2 <= trio.current_time() - start <= 2
        with trio.fail_after(3):
            await left.wait()
            await process.wait()


@pytest.mark.parametrize("name", ["upper", "sha256", "gunzip"])
def test_without_a_target_the_applications_say_what_is_missing(name: str) -> None:  # ET-12
    env = {key: value for key, value in os.environ.items() if key != "AIS_TARGET_URL"}
    done = subprocess.run(
        [sys.executable, "-c", f"import examples.etl.{name}"],
        cwd=ROOT,
        env={**env, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert "AIS_TARGET_URL is not set" in done.stderr


async def test_an_etl_server_is_served_as_any_application() -> None:
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(partial(serve, build(Upper).app, bind=[f"{HOST}:0"]))
        port = int(address.rpartition(":")[2])
        assert (await ask(port, "PUT", "/b/o", body=b"data"))[2] == b"DATA"
        nursery.cancel_scope.cancel()
