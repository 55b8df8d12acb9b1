"""Choosing a host: pure, and true for all requests and hosts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.errors import NoValidHost
from kilonova.scheduler.filters import FILTERS, unmet_need
from kilonova.scheduler.host_state import HostState, Request
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
        after = chosen.with_claim(request)
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
        hosts[chosen.name] = chosen.with_claim(Request(1024, 1, 10))
    assert {host.instances for host in hosts.values()} == {2}


def test_a_host_that_offers_nothing_weighs_little_and_filters_have_distinct_names() -> None:
    assert weight(HostState(name="empty")) < weight(ROOMY)
    assert len({check.__name__ for check in FILTERS}) == len(FILTERS)
