"""The part of `kilonova doctor` about a cloud's state: drift and leaks, found by its agents and on this machine.

Asks the cloud as its administrator, by the credentials in the state directory. Changes nothing unless it is to mend.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import create_engine, select

from kilonova.network.observation import Leak
from kilonova.service import credentials, leaks
from kilonova.service.checks import Finding
from kilonova.service.state import Options, StateDirectory
from kilonova.store import schema

_MEND = "kilonova doctor --mend"
_SETTLES_WITHIN_S = 10.0


def examine_cloud(state_dir: Path, *, mend: bool) -> list[Finding]:
    """Every finding about drift and leaks; of a cloud that is not there none."""
    state = StateDirectory(state_dir)
    options = state.read_options()
    if options is None or not (state.path / "kilonova.sqlite").exists():
        return []
    if state.pid() is None:
        advice = "start the cloud: kilonova up"
        return [Finding("drift and leaks", "note", "not checked, the cloud does not run", advice)]
    secret = credentials.password(state)
    if secret is None:
        return [Finding("drift and leaks", "note", "not checked", f"who may read {state.openrc} may ask: use sudo")]
    try:
        return _examine(state, options, secret, mend)
    except httpx.HTTPError as error:
        return [Finding("drift and leaks", "problem", f"the cloud does not answer: {error}", "kilonova status")]


def _examine(state: StateDirectory, options: Options, secret: str, mend: bool) -> list[Finding]:
    with httpx.Client(base_url=f"http://{options.address}:{options.port}", timeout=90, trust_env=False) as http:
        token = _token(http, secret)
        before = _found(http, token, state, options, mend=False)
        left = before
        if mend and before:
            _remove_leaks(state, options)
            give_up = time.monotonic() + _SETTLES_WITHIN_S
            left = _found(http, token, state, options, mend=True)
            while left and time.monotonic() < give_up:
                time.sleep(0.2)
                left = _found(http, token, state, options, mend=False)
    return list(_findings(before, left, mended=mend))


def _token(http: httpx.Client, secret: str) -> str:
    domain = {"name": "Default"}
    user = {"name": "admin", "domain": domain, "password": secret}
    identity = {"methods": ["password"], "password": {"user": user}}
    scope = {"project": {"name": "admin", "domain": domain}}
    answer = http.post("/identity/v3/auth/tokens", json={"auth": {"identity": identity, "scope": scope}})
    answer.raise_for_status()
    return str(answer.headers["x-subject-token"])


Found = dict[tuple[str, str], str]
"""(check, what was found) -> what mends it; empty: nothing does by itself."""


def _found(http: httpx.Client, token: str, state: StateDirectory, options: Options, *, mend: bool) -> Found:
    answer = http.post("/network/kilonova/audits", json={"audit": {"mend": mend}}, headers={"X-Auth-Token": token})
    answer.raise_for_status()
    told: Mapping[str, Any] = answer.json()["audit"]
    found: Found = {}
    for host in told["hosts"]:
        name = host["host"]
        if host["error"] is not None:
            words = f"its network agent does not answer, last heartbeat {host['age_s']:.0f} s ago: {host['error']}"
            found[f"host {name}", words] = ""
        for item in host["drift"]:
            found[f"drift on {name}", item["text"]] = "the agent mends it when it looks at the host"
        for item in host["leaks"]:
            found[f"leak on {name}", _words(item)] = item["mend"]
        for owner, why in host["failures"].items():
            found[f"host {name}", f"{owner or 'the host'} cannot be realised: {why}"] = ""
    for item in told["rows"]:
        found["leak in the store", _words(item)] = item["mend"]
    for leak in _local(state, options):
        found[f"leak on {options.host_name}", f"{leak.kind} {leak.name}: {leak.why}"] = leak.mend
    return found


def _words(leak: Mapping[str, str]) -> str:
    return f"{leak['kind']} {leak['name']}: {leak['why']}"


def _findings(before: Found, left: Found, *, mended: bool) -> Iterator[Finding]:
    if not before:
        yield Finding("drift and leaks", "ok", "none")
    for (check, words), how in before.items():
        if mended and (check, words) not in left:
            yield Finding(check, "ok", f"mended: {words}")
        else:
            yield Finding(check, "problem", words, how if mended or not how else f"{how}: {_MEND}")
    for (check, words), how in left.items():
        if (check, words) not in before:
            yield Finding(check, "problem", words, how)


# ------------------------------------------------------------------------------------------------ this machine
def _local(state: StateDirectory, options: Options) -> Iterator[Leak]:
    if os.geteuid() == 0 and options.mode != "simulate":
        yield from leaks.find(state.path, options.prefix, partial(_instances, state, options))


def _remove_leaks(state: StateDirectory, options: Options) -> None:
    if os.geteuid() == 0 and options.mode != "simulate":
        leaks.remove(state.path, options.prefix, partial(_instances, state, options))


def _instances(state: StateDirectory, options: Options) -> set[str]:
    """The servers of this host."""
    engine = create_engine(f"sqlite:///file:{state.path / 'kilonova.sqlite'}?mode=ro&uri=true")
    try:
        with engine.connect() as connection:
            table = schema.instances
            return set(connection.execute(select(table.c.id).where(table.c.host == options.host_name)).scalars())
    finally:
        engine.dispose()
