"""The nft rule sets of a host: the switch namespace's (anti-spoofing, groups) and a router's (NAT, forwarding).

They are layouts like any other, so a lost rule is mended as a lost element is. Everything that changes with ports,
groups and floating IPs is an element of a set or a chain of a group; the rules here never change. Pure.
"""

from __future__ import annotations

from kilonova.network.layout import Chain, Layout, SetKey

PREFIX = "kn_"
"""Begins the name of every nft table of this cloud."""
OUTSIDE_DEVICE = "outside"
"""In the switch namespace: the sandbox's uplink of the public bridge."""
PUBLIC_DEVICE = "pub0"
"""In a router's namespace: the interface on the public bridge."""


def l2(name: str) -> SetKey:
    """Anti-spoofing, on every bridge of the host."""
    return SetKey("bridge", "kn_l2", name)


def groups(name: str) -> SetKey:
    """Security groups, on the bridges that are filtered."""
    return SetKey("inet", "kn_sg", name)


def nat(name: str) -> SetKey:
    return SetKey("ip", "kn_nat", name)


def router(name: str) -> SetKey:
    return SetKey("inet", "kn_rt", name)


TRUSTED = l2("trusted")
ADDRESS_OK = l2("ip_ok")
MAC_OK = l2("mac_ok")
ARP_OK = l2("arp_ok")
ADDRESS6_OK = l2("ip6_ok")
ADVERTISED6_OK = l2("na_ok")
TARGET_OK = l2("dst_ok")
TARGET6_OK = l2("dst6_ok")
ZONES = groups("zones")
DHCP_SERVERS = groups("dhcp_srv")
EGRESS, INGRESS = groups("egress"), groups("ingress")
CUT_TCP, CUT_TCP6 = groups("cut_tcp4"), groups("cut_tcp6")
"""Flows that were cut, as their answers look. Filled by the way, emptied by time: no plan says what is in them."""
CUT_PORTS, CUT_PORTS6 = groups("cut_ports4"), groups("cut_ports6")
"""The same of other protocols that have ports."""
CUT_OTHER, CUT_OTHER6 = groups("cut_other4"), groups("cut_other6")
"""The same of protocols that have none."""
LEASE = l2("lease")
"""Holds one element while this host's lease runs; no plan says so, the agent's heartbeats do."""
PASSING = frozenset({CUT_TCP, CUT_TCP6, CUT_PORTS, CUT_PORTS6, CUT_OTHER, CUT_OTHER6, LEASE})
"""Sets whose elements come and go with time."""
_MOST_CUT = 262144
UNDERLAY = groups("underlay")
"""The NIC of the tunnel: the only one on which the switch namespace itself receives anything."""
EGRESS6, INGRESS6 = groups("egress6"), groups("ingress6")
SERVED, SERVED6 = groups("served4"), groups("served6")
"""Where networks' services answer. Sets of their own: a guest's allowed pair may be the same address."""
FLOATING = nat("fip")
FIXED = nat("fip_rev")
INSIDE = nat("inside")
INSIDE6 = router("inside6")
SOURCE_NAT = nat("snat_default")
HAIRPIN_NAT = nat("snat_hairpin")

VPN_PORTS = router("vpn_ports")
VPN_DEVICES = router("vpn_devices")
VPN_CLIENTS = router("vpn_clients")
VPN_INSIDE = router("vpn_inside")

ND = "{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert }"


OWN_DEVICES = ("rtr", "svc")
"""Begin the names of what a dead host must not go on answering with: its routers' and its services' bridge ports."""


def switch_rules(*, guarded: bool = False) -> Layout:
    """Of the switch namespace. A bridge port that is not in `trusted` is an instance's port: it fails closed.

    `guarded`: routers and services are cut off while the set `lease` is empty (a dead man's switch).
    Bridge hooks stand at -300, before br_netfilter's; `ct state` and `meta ibrname` do not work there on every kernel.
    In the inet table iif and oif of a bridged packet are the bridge, hence the keys `bridge . address`.
    """
    own = OWN_DEVICES if guarded else ()
    sets = {
        TRUSTED: "type ifname;",
        LEASE: "type iface_type; flags timeout;",
        ADDRESS_OK: "type ifname . ether_addr . ipv4_addr : verdict;",
        MAC_OK: "type ifname . ether_addr;",
        ARP_OK: "type ifname . ether_addr . ipv4_addr;",
        ADDRESS6_OK: "type ifname . ether_addr . ipv6_addr;",
        ADVERTISED6_OK: "typeof iifname . @th,64,128;",
        TARGET_OK: "type ifname . ipv4_addr;",
        TARGET6_OK: "type ifname . ipv6_addr;",
        ZONES: "typeof iifname : ct zone;",
        DHCP_SERVERS: "type ifname . ipv4_addr;",
        EGRESS: "type ifname . ipv4_addr : verdict;",
        INGRESS: "type ifname . ipv4_addr : verdict;",
        CUT_TCP: _cut_flows("ipv4_addr", "inet_service . inet_service", "5d"),
        CUT_TCP6: _cut_flows("ipv6_addr", "inet_service . inet_service", "5d"),
        CUT_PORTS: _cut_flows("ipv4_addr", "inet_service . inet_service", "10m"),
        CUT_PORTS6: _cut_flows("ipv6_addr", "inet_service . inet_service", "10m"),
        CUT_OTHER: _cut_flows("ipv4_addr", "inet_proto", "10m"),
        CUT_OTHER6: _cut_flows("ipv6_addr", "inet_proto", "10m"),
        EGRESS6: "type ifname . ipv6_addr : verdict;",
        INGRESS6: "type ifname . ipv6_addr : verdict;",
        SERVED: "type ifname . ipv4_addr;",
        SERVED6: "type ifname . ipv6_addr;",
        UNDERLAY: "type ifname;",
    }
    chains = {
        # Every port of a bridge is of the type `ether`, so this asks whether there is any element.
        l2("own_in"): Chain.of("meta iiftype @lease return", "drop"),
        l2("own_out"): Chain.of("meta oiftype @lease return", "drop"),
        # A frame with a VLAN tag is IP to `ip saddr`, which looks behind it; only `ether type` sees the tag.
        l2("v4ok"): Chain.of("ether type != ip drop", "udp sport 67 drop", "accept"),
        l2("pre"): Chain.of(
            "iifname . ether saddr . ip saddr vmap @ip_ok",
            *(f'iifname "{name}*" jump own_in' for name in own),
            "iifname @trusted accept",
            "iifname . ether saddr != @mac_ok drop",
            "ether type vmap { ip : goto v4, arp : goto arp4, ip6 : goto v6 }",
            "drop",
            hook="type filter hook prerouting priority -300; policy accept;",
        ),
        l2("v4"): Chain.of(
            "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
            "drop",
        ),
        l2("arp4"): Chain.of(
            "iifname . arp saddr ether . arp saddr ip @arp_ok accept",
            "arp saddr ip 0.0.0.0 iifname . arp saddr ether @mac_ok accept",
            "drop",
        ),
        l2("v6"): Chain.of(
            # A fragment whose first header is not the payload's may hide what the following rules look for (RFC 7113).
            "frag nexthdr { 0, 43, 44, 60, 135, 139, 140 } drop",
            # Nor is neighbour discovery ever in fragments, of which the first need not hold the target (RFC 6980).
            f"frag nexthdr 58 icmpv6 type {ND} drop",
            "icmpv6 type { nd-router-advert, nd-redirect, mld-listener-query } drop",
            "udp sport 547 udp dport 546 drop",
            "ip6 saddr :: icmpv6 type "
            "{ nd-neighbor-solicit, nd-router-solicit, mld-listener-report, mld2-listener-report } accept",
            "iifname . ether saddr . ip6 saddr != @ip6_ok drop",
            "icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @na_ok drop",
            "accept",
        ),
        l2("forwarded"): Chain.of(
            "oifname . ip daddr @dst_ok accept",
            *(f'oifname "{name}*" jump own_out' for name in own),
            "oifname @trusted accept",
            "goto to_tap",
            hook="type filter hook forward priority -300; policy accept;",
        ),
        l2("sent"): Chain.of(
            "oifname . ip daddr @dst_ok accept",
            "oifname @trusted accept",
            "goto to_tap",
            hook="type filter hook output priority -300; policy accept;",
        ),
        l2("to_tap"): Chain.of(
            "ether type arp accept",
            "oifname . ip6 daddr @dst6_ok accept",
            "udp sport 67 udp dport 68 accept",
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept",
            "drop",
        ),
        groups("raw_pre"): Chain.of(
            "ct zone set iifname map @zones",
            hook="type filter hook prerouting priority raw; policy accept;",
        ),
        # A guest that addresses its bridge must not reach the tunnel's address behind it.
        groups("received"): Chain.of(
            'iifname "lo" accept',
            "iifname @underlay accept",
            hook="type filter hook input priority filter; policy drop;",
        ),
        # What a network's service namespace is for; it listens on nothing else, and needs not be trusted in that.
        groups("services"): Chain.of(
            "udp dport { 53, 67, 547 } accept",
            "tcp dport { 53, 80 } accept",
            "meta l4proto { icmp, icmpv6 } accept",
            "drop",
        ),
        groups("sg_ingress"): Chain.of(
            "oifname . ip saddr @dhcp_srv udp sport 67 udp dport 68 accept",
            # From a server on the link; that guests are none, and no router forwards it, is sure.
            "ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept",
            f"oifname . ip daddr @{SERVED.name} goto services",
            f"oifname . ip6 daddr @{SERVED6.name} goto services",
            "oifname . ip daddr vmap @ingress",
            "oifname . ip6 daddr vmap @ingress6",
            "accept",
        ),
        # An answer to a flow that was cut would else begin it anew, the other way round. It is kept from that until it
        # has been silent for as long as connection tracking would have known the flow; a SYN begins what is really new.
        groups("resumed"): Chain.of(
            "tcp flags & (syn | ack) == syn return",
            *_answers("ip", CUT_TCP, CUT_PORTS, CUT_OTHER),
            *_answers("ip6", CUT_TCP6, CUT_PORTS6, CUT_OTHER6),
        ),
        groups("forwarded"): Chain.of(
            "ct state vmap { established : accept, related : accept, invalid : drop, new : jump resumed }",
            f"icmpv6 type {ND} accept",
            "iifname . ip daddr @dhcp_srv udp sport 68 udp dport 67 accept",
            "ip6 daddr ff02::1:2 udp sport 546 udp dport 547 accept",
            "iifname . ip saddr vmap @egress",
            "iifname . ip6 saddr vmap @egress6",
            "goto sg_ingress",
            hook="type filter hook forward priority filter; policy drop;",
        ),
    }
    return Layout(sets=sets, chains=chains)


def lease_commands(seconds: float) -> str:
    """One transaction that makes the lease run so long from now, or ends it.

    An element that is there keeps its time on older kernels when it is added again, hence out and in.
    """
    key = " ".join(LEASE)
    lines = [f"add element {key} {{ ether }}", f"delete element {key} {{ ether }}"]
    if seconds > 0:
        lines.append(f"add element {key} {{ ether timeout {max(1, int(seconds * 1000))}ms }}")
    return "\n".join(lines) + "\n"


def _cut_flows(kind: str, more: str, remembered: str) -> str:
    """`remembered`: as long as connection tracking itself would have known such a flow without a packet."""
    keys = f"ifname . {kind} . {kind} . {more}"
    return f"type {keys}; flags timeout, dynamic; timeout {remembered}; size {_MOST_CUT};"


def _answers(family: str, tcp: SetKey, ports: SetKey, other: SetKey) -> tuple[str, ...]:
    ends = f"iifname . {family} saddr . {family} daddr"
    both, alone = f"{ends} . th sport . th dport", f"{ends} . meta l4proto"
    return (
        f"meta l4proto tcp {both} @{tcp.name} drop",
        f"meta l4proto {{ udp, dccp, sctp, udplite }} {both} @{ports.name} update @{ports.name} {{ {both} }} drop",
        f"{alone} @{other.name} update @{other.name} {{ {alone} }} drop",
    )


def router_rules() -> Layout:
    """Of a router's namespace. The chains that name its own public address are the plan's."""
    sets = {
        FLOATING: "type ipv4_addr : ipv4_addr;",
        FIXED: "type ipv4_addr : ipv4_addr;",
        INSIDE: "type ipv4_addr; flags interval;",
        VPN_PORTS: "type inet_service;",
        VPN_DEVICES: "type ifname;",
        VPN_CLIENTS: "type ifname . ipv4_addr;",
        VPN_INSIDE: "type ipv4_addr; flags interval;",
        INSIDE6: "type ipv6_addr; flags interval;",
    }
    public = f'"{PUBLIC_DEVICE}"'
    chains = {
        nat("pre"): Chain.of(
            "dnat to ip daddr map @fip",
            hook="type nat hook prerouting priority dstnat; policy accept;",
        ),
        nat("post"): Chain.of(
            f"oifname {public} snat to ip saddr map @fip_rev",
            f"oifname {public} ip saddr @inside jump {SOURCE_NAT.name}",
            f"oifname != {public} ct status dnat snat to ip saddr map @fip_rev",
            f"oifname != {public} ct status dnat ip saddr @inside jump {HAIRPIN_NAT.name}",
            hook="type nat hook postrouting priority srcnat; policy accept;",
        ),
        # A VPN's clients reach the networks behind the router, and nothing by way of a floating IP: the filters of
        # the switch know them by their own addresses. One client reaches another through no filter, so not at all.
        router("from_vpn"): Chain.of(
            "ct status dnat drop",
            f"oifname {public} drop",
            "oifname @vpn_devices drop",
            "iifname . ip saddr @vpn_clients ip daddr @vpn_inside accept",
            "drop",
        ),
        router("to_vpn"): Chain.of(
            "ct status dnat drop",
            "ip saddr @vpn_inside accept",
            "drop",
        ),
        # The way of floating addresses, so the fewest questions first. Nothing is translated in IPv6: what is routed to
        # a guest reaches it, if its groups let it in.
        router("from_public"): Chain.of(
            "oifname @vpn_devices drop",
            "ct status dnat accept",
            "ct state established,related accept",
            f"ip6 daddr @{INSIDE6.name} accept",
            "drop",
        ),
        router("forwarded"): Chain.of(
            f"iifname {public} goto from_public",
            "iifname @vpn_devices goto from_vpn",
            "oifname @vpn_devices goto to_vpn",
            hook="type filter hook forward priority filter; policy accept;",
        ),
        router("received"): Chain.of(
            'iifname "lo" accept',
            "iifname @vpn_devices ip daddr != @vpn_inside drop",
            "ct state established,related accept",
            "meta l4proto { icmp, icmpv6 } accept",
            f"iifname {public} udp dport @vpn_ports accept",
            hook="type filter hook input priority filter; policy drop;",
        ),
    }
    return Layout(sets=sets, chains=chains)
