"""Traffic that goes on while a test does something to the host, and that tells afterwards whether it noticed."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import IO

from kilonova.network.host import namespaces

ECHO = """
import socket, sys
with socket.create_server(("", int(sys.argv[1]))) as server:
    print("ready", flush=True)
    while True:
        client, _ = server.accept()
        with client:
            while data := client.recv(65536):
                client.sendall(data)
"""
STREAM = """
import select, socket, struct, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as stream:
    number = 0
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        sent = struct.pack("!Q", number) * 32
        stream.sendall(sent)
        found = b""
        while len(found) < len(sent):
            found += stream.recv(len(sent) - len(found)) or sys.exit(f"the stream ended after {number}")
        found == sent or sys.exit(f"other bytes came back after {number}")
        number += 1
        if number == 1:
            print("flowing", flush=True)
    print(number, flush=True)
"""


class Stream:
    """One TCP connection from a namespace through which numbers go and come back until it is asked."""

    def __init__(self, source: str, target: str, address: str, port: int = 7007) -> None:
        """`target`: the namespace of the listener, which `source` reaches at `address`."""
        self._processes = [_start(target, ECHO, str(port))]
        _output(self._processes[0]).readline()
        self._processes.append(_start(source, STREAM, address, str(port)))
        assert _output(self._processes[1]).readline() == "flowing\n", "the stream does not begin"

    def whole(self) -> int:
        """How many times the bytes went round; fails when some were lost or the connection broke."""
        stream = self._processes[1]
        output, errors = stream.communicate("end\n", timeout=30)
        assert stream.returncode == 0, errors
        return int(output)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


class Pings:
    """A ping every ten milliseconds, so many."""

    def __init__(self, namespace: str, address: str, count: int = 400) -> None:
        self._count = count
        argv = ["ping", "-n", "-q", "-i", "0.01", "-W", "2", "-c", str(count), address]
        self._process = namespaces.run_inside(namespace, _popen, argv)

    @property
    def going_on(self) -> bool:
        return self._process.poll() is None

    def lost(self) -> int:
        """Waits for the last one."""
        output, _ = self._process.communicate(timeout=60 + self._count * 0.02)
        match = re.search(r"(\d+) packets transmitted, (\d+) received", output)
        assert match is not None, output
        assert int(match[1]) == self._count
        return int(match[1]) - int(match[2])

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _start(namespace: str, program: str, *arguments: str) -> subprocess.Popen[str]:
    return namespaces.run_inside(namespace, _popen, [sys.executable, "-S", "-c", program, *arguments])


def _output(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def _popen(argv: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
