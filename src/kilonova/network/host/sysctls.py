"""The kernel settings of this cloud's namespaces. A new one starts with the machine's defaults."""

from __future__ import annotations

from collections.abc import Mapping

SWITCH = {
    # Only bridges that ask for it (their own option) send packets to the stateful filter; a new namespace says all do.
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
    "net/bridge/bridge-nf-call-arptables": "0",
    "net/ipv4/ip_forward": "0",
    # The tunnel's address is the host's only one here: it is told on the tunnel's NIC alone.
    "net/ipv4/conf/all/arp_ignore": "1",
    "net/ipv4/conf/all/arp_announce": "2",
    # Bridges have no addresses of their own: guests must not find the host behind one.
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
}
ROUTER = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    # The link-local address follows from the MAC: guests keep their default route when the router is made anew.
    "net/ipv6/conf/default/addr_gen_mode": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/conf/all/accept_redirects": "0",
    # A router answers for an address only on the interface that has it.
    "net/ipv4/conf/all/arp_ignore": "1",
    "net/ipv4/conf/all/arp_announce": "2",
}
END = {
    "net/ipv4/ip_forward": "0",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
    "net/ipv6/conf/all/forwarding": "0",
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/addr_gen_mode": "0",
}


def sysctls_of(namespace: str) -> Mapping[str, str]:
    """By the namespace's name: the switch, a router, or an end (a network's services, the outside)."""
    _, _, rest = namespace.partition("-")
    if rest == "switch":
        return SWITCH
    return ROUTER if is_router(namespace) else END


def is_router(namespace: str) -> bool:
    """By the namespace's name."""
    return namespace.partition("-")[2].startswith("r-")
