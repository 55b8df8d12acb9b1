"""The process is killed in the middle of uploads: nothing acknowledged is lost, nothing half-written stays."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

SERVER = Path(__file__).with_name("image_server.py")
DEADLINE_S = 20.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def serving(state_dir: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.AsyncClient]]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(SERVER), str(state_dir), str(port)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        token = process.stdout.readline().strip()
        assert token, "the server did not start"
        yield (
            process,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}/image/v2", headers={"X-Auth-Token": token}, timeout=DEADLINE_S
            ),
        )
    finally:
        process.kill()
        process.communicate()


def files(state_dir: Path) -> list[Path]:
    return [path for path in (state_dir / "objects").rglob("*") if path.is_file() and path.name != "lock"]


async def wait_for_incoming(state_dir: Path) -> None:
    """Until some bytes of an upload lie on the disk under their temporary name."""
    async with asyncio.timeout(DEADLINE_S):
        while not any(path.stat().st_size for path in (state_dir / "objects/incoming").iterdir()):
            await asyncio.sleep(0.01)


async def test_kill_during_an_upload_loses_and_leaks_nothing(tmp_path: Path) -> None:
    octets = {"Content-Type": "application/octet-stream"}
    raw = {"disk_format": "raw", "container_format": "bare", "visibility": "private"}
    body = os.urandom(3_000_000)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(100_000)
            await asyncio.sleep(0.001)

    with serving(tmp_path) as (process, client):
        done = (await client.post("/images", json=raw)).json()["id"]
        assert (await client.put(f"/images/{done}/file", content=body, headers=octets)).status_code == 204
        broken = (await client.post("/images", json=raw)).json()["id"]
        upload = asyncio.create_task(client.put(f"/images/{broken}/file", content=endless(), headers=octets))
        await wait_for_incoming(tmp_path)
        assert (await client.get(f"/images/{broken}")).json()["status"] == "saving"
        process.kill()
        await asyncio.gather(upload, return_exceptions=True)
        await client.aclose()

    with serving(tmp_path) as (process, client):
        assert (await client.get(f"/images/{broken}")).json()["status"] == "queued"
        assert (await client.get(f"/images/{done}/file")).content == body
        assert len(files(tmp_path)) == 1
        assert (await client.put(f"/images/{broken}/file", content=b"whole", headers=octets)).status_code == 204
        assert (await client.get(f"/images/{broken}/file")).content == b"whole"
        assert (await client.delete(f"/images/{done}")).status_code == 204
        assert len(files(tmp_path)) == 1
        await client.aclose()


async def test_client_that_goes_away_leaves_the_image_queued_and_no_bytes(tmp_path: Path) -> None:
    raw = {"disk_format": "raw", "container_format": "bare"}
    with serving(tmp_path) as (_process, client):
        image = (await client.post("/images", json=raw)).json()["id"]
        _reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        head = (
            f"PUT /image/v2/images/{image}/file HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
            f"X-Auth-Token: {client.headers['x-auth-token']}\r\nContent-Length: 9000000\r\n\r\n"
        )
        writer.write(head.encode() + bytes(3_000_000))
        await writer.drain()
        await wait_for_incoming(tmp_path)
        writer.close()
        async with asyncio.timeout(DEADLINE_S):
            while (await client.get(f"/images/{image}")).json()["status"] != "queued" or files(tmp_path):
                await asyncio.sleep(0.02)
        await client.aclose()


async def test_refusal_reaches_a_client_that_is_still_sending(tmp_path: Path) -> None:
    qcow2 = {"disk_format": "qcow2", "container_format": "bare"}
    with serving(tmp_path) as (_process, client):
        image = (await client.post("/images", json=qcow2)).json()["id"]
        headers = {"Content-Type": "application/octet-stream"}
        answer = await client.put(f"/images/{image}/file", content=bytes(20_000_000), headers=headers)
        assert answer.status_code == 415
        assert "qcow2" in answer.json()["message"]
        assert files(tmp_path) == []
        await client.aclose()
