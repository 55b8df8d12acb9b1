"""What an installation is told: one frozen dataclass per component, filled by the command line (and later a TOML file).

Defaults are those of the documentation. Nothing here reads the environment or touches the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

DriverName = Literal["qemu", "namespace", "fake"]
AccelerationName = Literal["auto", "kvm", "tcg"]


@dataclass(frozen=True)
class ApiConfig:
    address: str = "127.0.0.1"
    port: int = 8770
    region: str = "RegionOne"
    public_url: str = ""
    """What clients should use; empty: http://ADDRESS:PORT."""
    token_lifetime_s: int = 4 * 3600
    max_body_bytes: int = 2 * 1024 * 1024
    """Of a JSON body; image and object uploads stream without a limit but the quota's."""

    @property
    def url(self) -> str:
        return self.public_url or f"http://{self.address}:{self.port}"


@dataclass(frozen=True)
class HostConfig:
    """How one host realises networks and guests."""

    name: str = "host1"
    prefix: str = "kn"
    """Begins the name of every namespace this host makes; at most 4 characters."""
    driver: DriverName = "qemu"
    acceleration: AccelerationName = "auto"
    simulate: bool = False
    """No kernel is touched: the network agent plans and 'applies' to nothing; the driver is `fake`."""
    trunks: dict[str, str] = field(default_factory=dict)
    """Physical network -> device (in the switch namespace) that carries its VLAN tags; none: this host alone."""
    vlan_backend: Literal["auto", "8021q", "tc"] = "auto"
    """What makes VLAN devices: the kernel's driver, or tc with eBPF where the kernel has none."""
    flat_bridges: dict[str, str] = field(default_factory=dict)
    """Physical network -> the administrator's bridge, in the switch namespace, for the flat managers."""
    tunnel_interface: str = ""
    """A NIC of the switch namespace, or moved there, that carries VXLAN; none: this host alone."""
    tunnel_address: str = ""
    """This host's address on it, with prefix length."""
    public_bridge: str = "br-public"
    public_gateway: str = ""
    public_interface: str = ""
    """A NIC of this machine that is moved into the switch namespace as the public bridge's uplink."""
    poll_interval_s: float = 30.0
    heartbeat_interval_s: float = 5.0
    """The network agent renews its lease as often."""
    availability_zone: str = "nova"
    vcpus: int = 0
    """Offered to guests; 0: processors x 16."""
    ram_mb: int = 0
    """Offered to guests; 0: what the machine has."""
    disk_gb: int = 0
    """Offered to guests; 0: the state directory's file system."""
    qemu_user: str = "nobody"
    """The unprivileged user that guests' processes run as; empty: the user of this process."""


@dataclass(frozen=True)
class NetworkConfig:
    """Defaults of networks; the pool's as in 2010."""

    default_manager: str = "vlan"
    """Of networks that users make without saying which."""
    type_weights: dict[str, float] = field(
        default_factory=lambda: {"vlan": 4.0, "vxlan": 3.0, "flat-dhcp": 2.0, "flat": 1.0}
    )
    """Network manager -> how much it is preferred for a project's network; 0 or less: only on request."""
    physical_network: str = "physnet1"
    user_vlan_first: int = 2000
    user_vlan_last: int = 4094
    """VLAN ids of networks that users make by the network API."""
    vni_first: int = 10000
    vni_last: int = 1 << 24
    """VXLAN network identifiers of networks that users make; `vni_last` itself is none."""
    vpn_port_first: int = 20000
    vpn_port_last: int = 29999
    """UDP ports of VPNs of networks for which the pool sets none aside."""
    mtu: int = 1500
    dns_nameservers: tuple[str, ...] = ()
    """Upstream servers that dnsmasq forwards to; none: names of the network only."""
    lease_s: float = 15.0
    """A network host whose agent did not renew its lease for so long stops; the same on every host."""
    takeover_margin_s: float = 5.0
    """So long after a lease ended, another host takes the networks and routers over."""


@dataclass(frozen=True)
class ObjectStoreConfig:
    """Where objects are kept and how long an unfinished upload may lie about."""

    url: str = ""
    """What the image service reaches it by, ending in /object-store/v1; empty: this machine's API server."""
    orphan_grace_s: float = 3600.0
    """A file or object that no row names is removed when it is older than this."""
    sweep_interval_s: float = 600.0


@dataclass(frozen=True)
class Config:
    state_dir: Path
    api: ApiConfig = field(default_factory=ApiConfig)
    host: HostConfig = field(default_factory=HostConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    object_store: ObjectStoreConfig = field(default_factory=ObjectStoreConfig)

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.state_dir / 'kilonova.sqlite'}"

    @property
    def object_store_url(self) -> str:
        """Where the image service finds the object store."""
        if self.object_store.url:
            return self.object_store.url.rstrip("/")
        address = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.api.address, self.api.address)  # noqa: S104
        return f"http://{address}:{self.api.port}/object-store/v1"
