"""A project's network from nothing, by the agent and by the fastest script that does the same by hand.

Both make a bridge, a service namespace with dnsmasq and a router with translations, and both are done when dnsmasq
answers a question over the bridge. The script knows every name and rule beforehand; it checks and remembers nothing.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

from kilonova.network.fragments import router_layout
from kilonova.network.host import namespaces
from kilonova.network.host.links import write_sysctls
from kilonova.network.host.nftables import Nft
from kilonova.network.host.sysctls import ROUTER, SWITCH
from kilonova.network.layout import Layout, difference, nft_commands
from kilonova.network.plan import RouterPlan
from kilonova.network.rules import switch_rules

_GIVE_UP_S = 10.0
_SCRIPT = """set -e
ip -batch - <<END
netns add {router}
netns add {service}
END
nsenter --net=/run/netns/{switch} ip -batch - <<END
link add {bridge} mtu 1500 up type bridge mcast_snooping 0 forward_delay 0 nf_call_iptables 1 nf_call_ip6tables 1
link add svc{n} mtu 1500 up master {bridge} type veth peer name svc0 netns {service}
link add int{n} mtu 1500 up master {bridge} type veth peer name int0 netns {router}
link add pub{n} mtu 1500 up master br-public type veth peer name pub0 netns {router}
END
nsenter --net=/run/netns/{switch} nft -f - <<END
add element inet kn_sg zones {{ "{bridge}" : {zone} }}
add element inet kn_sg dhcp_srv {{ "{bridge}" . 10.0.0.2 }}
add element inet kn_sg ingress {{ "{bridge}" . 10.0.0.2 : goto services, "{bridge}" . 169.254.169.254 : goto services }}
add element bridge kn_l2 trusted {{ "svc{n}", "int{n}", "pub{n}" }}
END
nsenter --net=/run/netns/{router} sh -e <<OUTER
{sysctls}
ip -batch - <<END
link set lo up
link set int0 up
link set pub0 up
addr add 10.0.0.1/24 dev int0
addr add {public}/24 dev pub0
route add default via 203.0.113.1
END
nft -f {rules}
OUTER
nsenter --net=/run/netns/{service} sh -e <<OUTER
ip -batch - <<END
link set lo up
link set svc0 up
addr add 10.0.0.2/24 dev svc0
addr add 169.254.169.254/32 dev svc0
route add default via 10.0.0.1
END
dnsmasq --conf-file={config}
OUTER
"""
_DNSMASQ = """no-resolv
no-hosts
bind-interfaces
except-interface=lo
listen-address=10.0.0.2
user=nobody
dhcp-range=10.0.0.0,static,255.255.255.0,1h
dhcp-hostsdir={directory}/hosts
dhcp-leasefile={directory}/leases
pid-file={directory}/pid
log-facility={directory}/log
"""


class Script:
    """A switch namespace of its own, and the script that makes networks beside it."""

    def __init__(self, directory: Path) -> None:
        self.prefix = "q" + secrets.token_hex(3)
        self.switch = f"{self.prefix}-switch"
        self._directory = directory
        self._made: list[Path] = []
        namespaces.create(self.switch, lambda: write_sysctls(SWITCH))
        namespaces.run_inside(self.switch, _load_rules)
        command = ["ip", "-n", self.switch, "link", "add", "br-public", "up", "type", "bridge"]
        subprocess.run(command, check=True)

    def make(self, number: int) -> float:
        """Seconds until dnsmasq answers."""
        directory = self._directory / f"script-{number}"
        (directory / "hosts").mkdir(parents=True)
        directory.chmod(0o755)
        self._made.append(directory)
        config, rules = directory / "dnsmasq.conf", directory / "router.nft"
        config.write_text(_DNSMASQ.format(directory=directory))
        layout = router_layout(RouterPlan("router"))
        changes = difference(Layout(), Layout(sets=layout.sets, chains=layout.chains, elements=layout.elements))
        rules.write_text(nft_commands(changes))
        router = f"{self.prefix}-r-{number}"
        text = _SCRIPT.format(
            switch=self.switch,
            router=router,
            service=f"{self.prefix}-s-{number}",
            bridge=f"br{number}",
            n=number,
            zone=number + 1,
            public=f"203.0.113.{number + 10}",
            sysctls="\n".join(f"echo {value} > /proc/sys/{name}" for name, value in ROUTER.items()),
            rules=rules,
            config=config,
        )
        began = time.perf_counter()
        subprocess.run(["sh"], input=text, text=True, check=True)
        until_answered(router, "10.0.0.2")
        return time.perf_counter() - began

    def close(self) -> None:
        for directory in self._made:
            os.kill(int((directory / "pid").read_text()), signal.SIGKILL)
        for name in namespaces.names(self.prefix):
            namespaces.delete(name)


def until_answered(namespace: str, server: str) -> None:
    """Ask for a name that nobody has until there is an answer. Raises `TimeoutError`."""
    question = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + b"\5bench\7example\0" + struct.pack("!HH", 1, 1)
    with namespaces.run_inside(namespace, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(0.01)
        give_up = time.perf_counter() + _GIVE_UP_S
        while time.perf_counter() < give_up:
            try:
                asker.sendto(question, (server, 53))
                asker.recv(512)
            except (TimeoutError, OSError):
                continue
            return
    raise TimeoutError(f"{server} in {namespace} does not answer")


def _load_rules() -> None:
    with Nft() as nft:
        nft.run(nft_commands(difference(Layout(), switch_rules())))
