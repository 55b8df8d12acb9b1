"""kill -9 of the whole process under traffic: what guests send and receive does not notice."""

from __future__ import annotations

from host.network.traffic import Pings, Stream

from .conftest import MakeCloud
from .running import until


def test_kill_and_restart_lose_no_ping_and_no_byte(make_cloud: MakeCloud) -> None:
    cloud = make_cloud("sandbox", "namespace")
    cloud.up()
    image = cloud.upload_tiny()
    user = cloud.connect()
    flavor = user.compute.find_flavor("m1.nano", ignore_missing=False)
    servers = [
        user.compute.create_server(name=f"s{number}", image_id=image.id, flavor_id=flavor.id, networks="auto")
        for number in range(2)
    ]
    servers = [user.compute.wait_for_server(server) for server in servers]
    ports = [next(user.network.ports(device_id=server.id)) for server in servers]
    for protocol in ("icmp", "tcp"):
        user.network.create_security_group_rule(
            security_group_id=ports[0].security_group_ids[0], direction="ingress", protocol=protocol, ethertype="IPv4"
        )
    public = next(user.network.networks(is_router_external=True))
    floating = user.network.create_ip(floating_network_id=public.id, port_id=ports[0].id)
    until("the floating address is active", lambda: user.network.get_ip(floating.id).status == "ACTIVE")
    prefix = cloud.prefix
    guests = [f"{prefix}-g-{server.id[:11]}" for server in servers]
    inside = ports[0].fixed_ips[0]["ip_address"]
    until("the guest has its address", lambda: _replies(guests[1], inside))

    flows = [Stream(f"{prefix}-outside", guests[0], floating.floating_ip_address)]
    pings = [Pings(f"{prefix}-outside", floating.floating_ip_address, 3000), Pings(guests[1], inside, 3000)]
    try:
        for _ in range(2):
            cloud.kill()
            cloud.up()
        new = user.compute.create_server(name="later", image_id=image.id, flavor_id=flavor.id, networks="auto")
        user.compute.wait_for_server(new)
        assert all(ping.going_on for ping in pings), "the pings ended before the restarts did: nothing is proven"
        assert flows[0].whole() > 0
        assert [ping.lost() for ping in pings] == [0, 0]
    finally:
        for flow in flows:
            flow.close()
        for ping in pings:
            ping.close()


def _replies(namespace: str, address: str) -> bool:
    ping = Pings(namespace, address, 1)
    try:
        return ping.lost() == 0
    finally:
        ping.close()
