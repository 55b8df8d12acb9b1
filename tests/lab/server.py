"""Runs in a host of the lab and does what the test asks, by TCP: one JSON object a line in, one out.

`{"shell": TEXT}` runs a script: `{code, output}`. `{"realise": ROWS, "host": {...}, "look": bool}` has the cloud's own
code (planner, fragments, `KernelHost`) make this host as the rows want it: `{failures, changes}`. ROWS is a pickled
`HostRows` in base64: what `rows.load` read in the test's store.

This kernel has neither nftables' inet family nor its NAT, so the filters of a plan are left out: `without_filters` is
the one place where that happens. Filters are tested by the tier `host`, on the machine's own kernel.
"""

from __future__ import annotations

import base64
import json
import pickle
import socket
import subprocess
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kilonova.config import Config, HostConfig
from kilonova.network.fragments import Fragment, Names, fragments
from kilonova.network.host import apply
from kilonova.network.host.nftables import Nft
from kilonova.network.plan import HostPlan
from kilonova.network.planner import plan

PORT = 7000
STATE = Path("/tmp/lab-state")


def without_filters(wanted: HostPlan, names: Names) -> dict[str, Fragment]:
    """The fragments of a plan, their links, routes and forwarding entries only."""
    return {
        key: replace(item, layout=replace(item.layout, sets={}, chains={}, elements={}))
        for key, item in fragments(wanted, names).items()
    }


class Server:
    def __init__(self) -> None:
        self._host: apply.KernelHost | None = None

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        if "shell" in question:
            done = subprocess.run(
                ["/bin/sh", "-c", str(question["shell"])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=50,
                check=False,
            )
            return {"code": done.returncode, "output": done.stdout}
        rows = pickle.loads(base64.b64decode(question["realise"]))
        config = Config(STATE, host=HostConfig(**question["host"]))
        if self._host is None:
            self._host = apply.KernelHost(config)
        outcome = self._host.apply(plan(rows, config), look=bool(question["look"]))
        return {"failures": outcome.failures, "changes": outcome.changes}


def main() -> None:
    setattr(apply, "fragments", without_filters)  # noqa: B010
    setattr(Nft, "run", lambda _self, _commands: None)  # noqa: B010
    STATE.mkdir()
    server = Server()
    with socket.create_server(("", PORT)) as listening:
        print("lab: listening", flush=True)
        client, _ = listening.accept()
        with client, client.makefile("rwb") as stream:
            for line in stream:
                try:
                    answer = server.answer(json.loads(line))
                except Exception:
                    answer = {"error": traceback.format_exc()}
                stream.write(json.dumps(answer).encode() + b"\n")
                stream.flush()


if __name__ == "__main__":
    main()
