"""Choosing a host: pure, and true for all requests and hosts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.errors import NoValidHost
from kilonova.network.managers.wires import wires_of
from kilonova.scheduler.filters import FILTERS, unmet_need
from kilonova.scheduler.host_state import HostState, Request, Wire
from kilonova.scheduler.placement import choose
from kilonova.scheduler.weights import weight

sizes = st.integers(0, 64)
hosts_lists = st.lists(
    st.builds(
        HostState,
        name=st.sampled_from([f"host{n}" for n in range(8)]),
        availability_zone=st.sampled_from(["nova", "moon"]),
        alive=st.booleans(),
        enabled=st.booleans(),
        ram_mb=sizes,
        vcpus=sizes,
        disk_gb=sizes,
        used_ram_mb=sizes,
        used_vcpus=sizes,
        used_disk_gb=sizes,
        instances=sizes,
    ),
    max_size=6,
    unique_by=lambda host: host.name,
)
requests = st.builds(
    Request,
    ram_mb=sizes,
    vcpus=sizes,
    disk_gb=sizes,
    availability_zone=st.sampled_from([None, "nova", "moon"]),
    host=st.sampled_from([None, None, "host1"]),
)


@given(requests, hosts_lists)
def test_only_a_host_that_meets_every_need_is_chosen(request: Request, hosts: list[HostState]) -> None:
    passing = [host for host in hosts if unmet_need(request, host) is None]
    if not passing:
        with pytest.raises(NoValidHost) as refused:
            choose(request, hosts)
        assert all(host.name in refused.value.message for host in hosts)
        return
    chosen = choose(request, hosts)
    assert chosen in passing
    assert weight(chosen) == max(weight(host) for host in passing)


@given(st.lists(requests, max_size=30), hosts_lists)
def test_no_host_is_ever_overcommitted(wanted: list[Request], hosts: list[HostState]) -> None:
    state = {host.name: host for host in hosts}
    for request in wanted:
        try:
            chosen = choose(request, list(state.values()))
        except NoValidHost:
            continue
        after = with_claim(chosen, request)
        assert after.used_ram_mb <= after.ram_mb
        assert after.used_vcpus <= after.vcpus
        assert after.used_disk_gb <= after.disk_gb
        state[chosen.name] = after


@given(requests, hosts_lists)
def test_the_choice_does_not_depend_on_the_order_of_hosts(request: Request, hosts: list[HostState]) -> None:
    shuffled = sorted(hosts, key=lambda host: host.name, reverse=True)

    def outcome(among: list[HostState]) -> str | None:
        try:
            return choose(request, among).name
        except NoValidHost:
            return None

    assert outcome(hosts) == outcome(shuffled)


ROOMY = HostState(name="host1", ram_mb=8192, vcpus=8, disk_gb=100)
SMALL = Request(ram_mb=4096, vcpus=2, disk_gb=20)


def wired(name: str, **capacity: object) -> HostState:
    """A host whose network agent has told what it reaches."""
    wires = wires_of(name, {"trunks": [], "flat_bridges": {}, "tunnel": None, **capacity})
    return HostState(name=name, ram_mb=8192, vcpus=8, disk_gb=100, wires=wires)


def test_a_server_goes_where_its_networks_are_carried() -> None:
    hosts = [
        wired("host1", trunks=["physnet1"]),
        wired("host2", tunnel={"address": "192.0.2.1", "mtu": 1500}),
        wired("host3", trunks=["physnet1"], flat_bridges={"lan": "br-lan"}),
        wired("host4"),
    ]
    for wires, name in (
        ((Wire("vlan", "physnet1", "host9"),), "host1"),
        ((Wire("vxlan", "vxlan", "host9"),), "host2"),
        ((Wire("vlan", "physnet1", "host9"), Wire("flat", "lan", "host9")), "host3"),
        ((Wire("vlan", "physnet1", "host4"), Wire("vxlan", "vxlan", "host4")), "host4"),
        ((Wire("vlan", "physnet1", None),), "host1"),
    ):
        assert choose(Request(1, 1, 1, wires=wires), hosts).name == name


@pytest.mark.parametrize(
    ("host", "request_", "need"),
    [
        (HostState(name="h", ram_mb=512, vcpus=8, disk_gb=100), SMALL, "RAM 4096 MB needed, 512 MB free"),
        (HostState(name="h", ram_mb=8192, vcpus=1, disk_gb=100), SMALL, "vCPUs 2 needed, 1 free"),
        (HostState(name="h", ram_mb=8192, vcpus=8, disk_gb=5), SMALL, "disk 20 GB needed, 5 GB free"),
        (HostState(name="h", ram_mb=8192, used_ram_mb=9000, vcpus=8), SMALL, "RAM 4096 MB needed, 0 MB free"),
        (HostState(name="h", alive=False), SMALL, "its compute service is down"),
        (HostState(name="h", enabled=False, disabled_reason="repair"), SMALL, "disabled (repair)"),
        (HostState(name="h", enabled=False), SMALL, "disabled"),
        (ROOMY, Request(1, 1, 1, availability_zone="moon"), "availability zone moon needed, it is in nova"),
        (ROOMY, Request(1, 1, 1, host="host9"), "host host9 was asked for"),
        (wired("host1"), Request(1, 1, 1, wires=(Wire("vlan", "physnet1", "host2"),)), "no trunk for physnet1"),
        (wired("host1"), Request(1, 1, 1, wires=(Wire("vxlan", "vxlan", "host2"),)), "no tunnel for VXLAN"),
        (wired("host1"), Request(1, 1, 1, wires=(Wire("flat", "lan", "host1"),)), "no bridge for lan"),
    ],
)
def test_an_unmet_need_is_named(host: HostState, request_: Request, need: str) -> None:
    assert unmet_need(request_, host) == need
    with pytest.raises(NoValidHost, match="No valid host was found"):
        choose(request_, [host])


def test_without_hosts_the_message_says_what_to_start() -> None:
    with pytest.raises(NoValidHost, match="kilonova service compute"):
        choose(SMALL, [])


def test_servers_spread_over_equal_hosts() -> None:
    hosts = {f"host{n}": HostState(name=f"host{n}", ram_mb=8192, vcpus=16, disk_gb=500) for n in range(4)}
    for _ in range(8):
        chosen = choose(Request(1024, 1, 10), list(hosts.values()))
        hosts[chosen.name] = with_claim(chosen, Request(1024, 1, 10))
    assert {host.instances for host in hosts.values()} == {2}


def test_a_host_that_offers_nothing_weighs_little_and_filters_have_distinct_names() -> None:
    assert weight(HostState(name="empty")) < weight(ROOMY)
    assert len({check.__name__ for check in FILTERS}) == len(FILTERS)


def with_claim(host: HostState, request: Request) -> HostState:
    """The host after the instance was placed on it."""
    return replace(
        host,
        used_ram_mb=host.used_ram_mb + request.ram_mb,
        used_vcpus=host.used_vcpus + request.vcpus,
        used_disk_gb=host.used_disk_gb + request.disk_gb,
        instances=host.instances + 1,
    )
