"""The checks of `kilonova doctor`: each looks at one thing and answers findings; none changes anything."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from sqlalchemy import create_engine, select

from kilonova.errors import KilonovaError
from kilonova.network.host import vlan_tc
from kilonova.service.state import Options, StateDirectory
from kilonova.store import schema

Level = Literal["ok", "note", "problem"]

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "dnsmasq": "dnsmasq-base",
    "dhcp_release": "dnsmasq-utils",
    "nft": "nftables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "arping": "iputils-arping",
    "busybox": "busybox-static",
    "radvd": "radvd",
    "wg": "wireguard-tools",
    "wireguard-go": "wireguard-go",
}
"""Program -> the Debian and Ubuntu package that has it."""

WIRES = ("8021q", "vxlan")
"""Kernel features that only wires to other hosts need."""
LEAST_FREE_GB = 2.0


@dataclass(frozen=True)
class Finding:
    check: str
    level: Level
    found: str
    advice: str = ""


def examine(state_dir: Path) -> list[Finding]:
    """Every check, in the order in which one would mend things."""
    state = StateDirectory(state_dir)
    options = state.read_options() or Options()
    checks = (packages(), kernel(), acceleration(), addresses(state), firewall(options), disk(state), cloud(state))
    return [finding for check in checks for finding in check]


def packages() -> Iterator[Finding]:
    missing = sorted({package for name, package in PROGRAMS.items() if not shutil.which(name, path=_path())})
    if missing:
        yield Finding("packages", "problem", f"missing: {', '.join(missing)}", f"apt-get install {' '.join(missing)}")
    else:
        yield Finding("packages", "ok", f"all {len(PROGRAMS)} programs are installed")


def _path() -> str:
    """Where programs are, also for a shell whose PATH leaves out those for administrators."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def kernel() -> Iterator[Finding]:
    if os.geteuid() != 0:
        yield Finding("kernel", "note", "not checked", "run it as root to check kernel features")
        return
    missing = [program for program in ("unshare", "sh", "ip", "nft") if not shutil.which(program, path=_path())]
    if missing:
        yield Finding("kernel", "note", f"not checked, without {', '.join(missing)}", "install the packages first")
        return
    lacking = [name for name, works in _kernel_features().items() if not works]
    needed = [name for name in lacking if name not in WIRES]
    if needed:
        yield Finding("kernel", "problem", f"lacks {', '.join(needed)}", "load the modules, or use another kernel")
    else:
        yield Finding("kernel", "ok", "namespaces, bridge, veth, tun and nftables work")
    if "8021q" in lacking:
        yield _vlans_by_tc()
    if "vxlan" in lacking:
        yield Finding("kernel VXLAN devices", "note", "the kernel has no vxlan", "only needed with --tunnel")


def _vlans_by_tc() -> Finding:
    """Whether VLAN devices can be made without the kernel's own driver."""
    try:
        vlan_tc.check()
    except KilonovaError as error:
        found = f"the kernel has no 8021q, and takes no eBPF program instead: {error}"
        return Finding("kernel VLAN devices", "note", found, "only needed with a trunk to other hosts (--trunk)")
    return Finding("kernel VLAN devices", "ok", "the kernel has no 8021q: they are made by tc with eBPF")


def _kernel_features() -> dict[str, bool]:
    """Tries each feature in a namespace of a child process, which takes everything with it when it ends."""
    script = (
        "ip link add b0 type bridge && echo bridge; ip link add v0 type veth peer name v1 && echo veth; "
        "ip tuntap add t0 mode tap && echo tun; ip link add link v0 name v0.5 type vlan id 5 && echo 8021q; "
        "ip link add x0 type vxlan id 5 dstport 4789 && echo vxlan; "
        "nft add table inet x && nft add map inet x m '{ type ifname . ipv4_addr : verdict; }' && echo nftables"
    )
    try:
        done = subprocess.run(
            ["unshare", "--net", "sh", "-c", script],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env={**os.environ, "PATH": _path()},
        )
    except (OSError, subprocess.TimeoutExpired):
        return {"network namespaces": False}
    found = set(done.stdout.split())
    return {name: name in found for name in ("bridge", "veth", "tun", "nftables", *WIRES)}


def acceleration() -> Iterator[Finding]:
    from kilonova.compute.kvm_probe import probe

    result = probe()
    if result.usable:
        yield Finding("KVM", "ok", result.reason)
    else:
        yield Finding("KVM", "note", f"not usable: {result.reason}", "guests run under TCG, 5 to 20 times slower")


def addresses(state: StateDirectory) -> Iterator[Finding]:
    """Ranges that users will want to reach must not be routed elsewhere by this machine."""
    ours = _cloud_ranges(state)
    clashes = [f"{cidr} overlaps {route}" for cidr in ours for route in _machine_routes() if _overlap(cidr, route)]
    if clashes:
        advice = "guests are kept apart in namespaces, but from this machine those addresses mean something else"
        yield Finding("addresses", "note", "; ".join(clashes), advice)
    else:
        yield Finding("addresses", "ok", "no floating range overlaps this machine's routes")


def _overlap(one: str, other: str) -> bool:
    a, b = ip_network(one), ip_network(other)
    return a.version == b.version and a.overlaps(b)


def _cloud_ranges(state: StateDirectory) -> list[str]:
    database = state.path / "kilonova.sqlite"
    if not database.exists():
        return []
    engine = create_engine(f"sqlite:///file:{database}?mode=ro&uri=true")
    try:
        with engine.connect() as connection:
            query = select(schema.subnets.c.cidr).where(schema.subnets.c.host.is_not(None))
            return [row.cidr for row in connection.execute(query)]
    finally:
        engine.dispose()


def _machine_routes() -> list[str]:
    try:
        done = subprocess.run(["ip", "-j", "route"], capture_output=True, text=True, timeout=5, check=False)
    except OSError:
        return []
    routes = json.loads(done.stdout or "[]")
    return [route["dst"] for route in routes if route.get("dst", "default") != "default" and ":" not in route["dst"]]


def firewall(options: Options) -> Iterator[Finding]:
    """Other firewalls in the switch namespace would drop guests' packets; those of the machine itself do not matter."""
    switch = f"{options.prefix}-switch"
    if os.geteuid() != 0 or not Path("/run/netns", switch).exists():
        yield Finding("firewall", "ok", "guests' packets do not pass this machine's own firewall")
        return
    listing = ["ip", "netns", "exec", switch, "nft", "-j", "list", "tables"]
    done = subprocess.run(listing, capture_output=True, text=True, timeout=5, check=False)
    tables = [item["table"]["name"] for item in json.loads(done.stdout or "{}").get("nftables", []) if "table" in item]
    foreign = sorted({name for name in tables if not name.startswith("kn_")})
    if foreign:
        advice = f"somebody added them by hand: ip netns exec {switch} nft delete table ..."
        yield Finding("firewall", "problem", f"foreign tables in {switch}: {', '.join(foreign)}", advice)
    else:
        yield Finding("firewall", "ok", f"only Kilonova's tables are in {switch}")


def disk(state: StateDirectory) -> Iterator[Finding]:
    place = state.path
    while not place.exists():
        place = place.parent
    free_gb = shutil.disk_usage(place).free / 1e9
    if free_gb < LEAST_FREE_GB:
        yield Finding("disk", "problem", f"{free_gb:.1f} GB free in {place}", f"{LEAST_FREE_GB:g} GB are the least")
    else:
        yield Finding("disk", "ok", f"{free_gb:.1f} GB free in {place}")


def cloud(state: StateDirectory) -> Iterator[Finding]:
    options = state.read_options()
    if options is None:
        yield Finding("cloud", "note", f"none in {state.path}", f"kilonova up --state-dir {state.path}")
    elif (pid := state.pid()) is None:
        yield Finding("cloud", "note", "not running", f"kilonova up --state-dir {state.path}")
    else:
        yield Finding("cloud", "ok", f"process {pid} serves http://{options.address}:{options.port}")
    if ctypes.util.find_library("nftables") is None:
        yield Finding("libnftables", "note", "not found", "changes are made by the program nft, which is slower")
