"""Networks of both IP versions by the `openstack` command, unmodified."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest

from .running import RunningCloud

pytestmark = pytest.mark.timeout(300)


class Client:
    """The command as one member."""

    def __init__(self, cloud: RunningCloud, name: str) -> None:
        cloud.member(name)
        self._cloud = cloud
        self._user = (name, f"secret-{name}", name)

    def show(self, words: str) -> Any:
        return self._cloud.openstack_json(*words.split(), as_user=self._user)

    def do(self, words: str, *, check: bool = True) -> str:
        done = self._cloud.openstack(*words.split(), as_user=self._user, check=check)
        return done.stdout if check else done.stderr


def test_network_of_both_versions_with_a_router(simulated: RunningCloud) -> None:
    client = Client(simulated, "dual-stack")
    mode = "slaac"
    client.do("network create dual --dns-domain example.org.")
    client.do("subnet create --network dual --subnet-range 10.8.0.0/24 dual-4")
    modes = f"--ipv6-ra-mode {mode} --ipv6-address-mode {mode} --dns-nameserver 2001:db8::53"
    client.do(f"subnet create --network dual --ip-version 6 --subnet-range 2001:db8:8::/64 {modes} dual-6")
    shown = client.show("subnet show dual-6")
    assert (shown["ip_version"], shown["ipv6_ra_mode"], shown["ipv6_address_mode"]) == (6, mode, mode)
    assert shown["gateway_ip"] == "2001:db8:8::1"

    client.do("router create dual-router")
    for subnet in ("dual-4", "dual-6"):
        client.do(f"router add subnet dual-router {subnet}")
    interfaces = client.show("router show dual-router")["interfaces_info"]
    assert {item["ip_address"] for item in interfaces} == {"10.8.0.1", "2001:db8:8::1"}
    client.do("router set --route destination=2001:db8:9::/48,gateway=2001:db8:8::9 dual-router")
    assert "required by the route" in client.do("router remove subnet dual-router dual-6", check=False)
    client.do("router unset --route destination=2001:db8:9::/48,gateway=2001:db8:8::9 dual-router")

    client.do("port create --network dual --dns-name web --extra-dhcp-option name=mtu,value=1400 web")
    port = client.show("port show web")
    addresses = {item["ip_address"] for item in port["fixed_ips"]}
    (sixth,) = {address for address in addresses if ":" in address}
    assert len(addresses) == 2
    assert IPv6Address(sixth) in IPv6Network("2001:db8:8::/64")
    assert "ff:fe" in sixth
    client.do("subnet set --name later --dns-nameserver 2001:db8::54 dual-6")
    assert sorted(client.show("subnet show later")["dns_nameservers"]) == ["2001:db8::53", "2001:db8::54"]

    client.do("port delete web")
    for subnet in ("dual-4", "later"):
        client.do(f"router remove subnet dual-router {subnet}")
    client.do("router delete dual-router")
    client.do("network delete dual")


def test_wrong_modes_are_refused_in_words(simulated: RunningCloud) -> None:
    client = Client(simulated, "dual-wrong")
    client.do("network create dual")
    create = "subnet create --network dual --ip-version 6 --subnet-range"
    said = client.do(f"{create} 2001:db8::/80 --ipv6-ra-mode slaac --ipv6-address-mode slaac x", check=False)
    assert "/64" in said
    said = client.do(f"{create} 2001:db8::/64 --no-dhcp --ipv6-ra-mode slaac x", check=False)
    assert "enable_dhcp" in said
