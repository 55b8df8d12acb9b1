"""What an instance may learn about itself: the OpenStack and the EC2 metadata documents, rendered from plain data.

Pure: the metadata service asks `answer` for a path, the config drive asks `config_drive_files` for the whole tree, and
both render the same documents. Reading the rows lives in `kilonova.store.metadata_rows`; serving them in the network
agent.
Formats: OpenStack's "Metadata service" (user guide of Nova) and the EC2 "Instance metadata" of 2009-04-04.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network

OPENSTACK_VERSIONS = (
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "2020-10-14",
)
EC2_VERSIONS = (
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
)
_SINCE_RANDOM_SEED = "2013-10-17"
_SINCE_NETWORK_DATA = "2015-10-15"
_SINCE_VENDOR_DATA = "2013-10-17"
_SINCE_VENDOR_DATA_2 = "2016-10-06"


@dataclass(frozen=True)
class Route:
    """A static route: `destination` is a CIDR."""

    destination: str
    next_hop: str


@dataclass(frozen=True)
class InterfaceAddress:
    """One fixed address with what its subnet says."""

    address: str
    prefix_length: int
    subnet_id: str
    dhcp: bool = True
    """Does the subnet hand out addresses."""
    ipv6_mode: str | None = None
    """How an IPv6 subnet does: slaac | dhcpv6-stateful | dhcpv6-stateless; none: it does not."""
    gateway: str | None = None
    nameservers: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()

    @property
    def is_static(self) -> bool:
        """Nobody tells the guest on the wire: it configures the address from `network_data.json`."""
        return not self.dhcp or (":" in self.address and self.ipv6_mode is None)


@dataclass(frozen=True)
class Interface:
    """One port of the instance, in the order of its server."""

    port_id: str
    device: str
    mac: str
    mtu: int
    network_id: str
    addresses: tuple[InterfaceAddress, ...] = ()


@dataclass(frozen=True)
class InstanceMetadata:
    """Everything the documents are made of."""

    instance_id: str
    name: str
    hostname: str
    project_id: str
    availability_zone: str = "nova"
    flavor_name: str = ""
    image_id: str | None = None
    reservation_id: str = ""
    launch_index: int = 0
    key_name: str | None = None
    public_key: str | None = None
    user_data: bytes | None = None
    """Decoded, as the guest shall see it."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    security_groups: tuple[str, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    public_ipv4: str | None = None
    """A floating IP, when one is associated."""
    random_seed: bytes = b""
    """Fresh bytes for the guest's entropy pool; empty: the document has none."""
    vendor_data: Mapping[str, object] = field(default_factory=dict)


Tree = Mapping[str, "bytes | Tree"]
_KEY_LINE = "_name"
"""Under this name a public key's directory holds the line that its parent lists for it."""


def answer(document: InstanceMetadata, path: str) -> bytes | None:
    """The body for a GET of `path`: a document, or a directory's listing. `None`: no such thing (404)."""
    node: bytes | Tree = _root(document)
    for part in path.split("?", 1)[0].split("/"):
        if not part:
            continue
        if isinstance(node, bytes) or part not in node or part == _KEY_LINE:
            return None
        node = node[part]
    return node if isinstance(node, bytes) else _listing(node)


def content_type(path: str) -> str:
    """The media type of what `answer` returned for `path`."""
    return "application/json" if path.rstrip("/").endswith(".json") else "text/plain; charset=UTF-8"


def config_drive_files(document: InstanceMetadata) -> dict[str, bytes]:
    """Path in the config drive -> bytes: the OpenStack tree, EC2's two documents, and NoCloud's files at the root."""
    files = _nocloud(document)
    for version in (*OPENSTACK_VERSIONS, "latest"):
        for name, body in _openstack_version(document, version).items():
            if name != "password":
                files[f"openstack/{version}/{name}"] = body
    for version in (EC2_VERSIONS[-1], "latest"):
        files[f"ec2/{version}/meta-data.json"] = _json(_ec2_plain(document))
        if document.user_data is not None:
            files[f"ec2/{version}/user-data"] = document.user_data
    return files


def ec2_instance_id(instance_id: str) -> str:
    """EC2's form of an instance's id: 17 hex digits, here the first of the UUID, so that a reader can match them."""
    return f"i-{instance_id.replace('-', '')[:17]}"


def openstack_meta_data(document: InstanceMetadata, version: str = "latest") -> dict[str, object]:
    """`meta_data.json` of the given version."""
    result: dict[str, object] = {
        "uuid": document.instance_id,
        "name": document.name,
        "hostname": document.hostname,
        "availability_zone": document.availability_zone,
        "launch_index": document.launch_index,
    }
    if document.metadata:
        result["meta"] = dict(document.metadata)
    if document.public_key:
        name = document.key_name or "key"
        key = document.public_key.strip() + "\n"
        result["public_keys"] = {name: key}
        if _at_least(version, "2014-10-17"):
            result["keys"] = [{"name": name, "type": "ssh", "data": key}]
    if document.random_seed and _at_least(version, _SINCE_RANDOM_SEED):
        result["random_seed"] = base64.b64encode(document.random_seed).decode()
    if _at_least(version, _SINCE_NETWORK_DATA):
        result["project_id"] = document.project_id
    if _at_least(version, "2016-06-30"):
        result["devices"] = []
    if _at_least(version, "2020-10-14"):
        result["dedicated_cpus"] = []
    return result


def openstack_network_data(document: InstanceMetadata) -> dict[str, object]:
    """`network_data.json`: links, their networks (DHCP or static) and name servers."""
    links: list[dict[str, object]] = []
    networks: list[dict[str, object]] = []
    nameservers: list[str] = []
    for interface in document.interfaces:
        links.append(
            {
                "id": interface.device,
                "vif_id": interface.port_id,
                "type": "bridge",
                "mtu": interface.mtu,
                "ethernet_mac_address": interface.mac,
            }
        )
        for address in interface.addresses:
            networks.append(_network(len(networks), interface, address))
            nameservers += [server for server in address.nameservers if server not in nameservers]
    return {"links": links, "networks": networks, "services": [_dns(server) for server in nameservers]}


# ------------------------------------------------------------------------------------------------ OpenStack
def _openstack_version(document: InstanceMetadata, version: str) -> dict[str, bytes]:
    files = {"meta_data.json": _json(openstack_meta_data(document, version))}
    if document.user_data is not None:
        files["user_data"] = document.user_data
    if _at_least(version, "2013-04-04"):
        files["password"] = b""
    if _at_least(version, _SINCE_VENDOR_DATA):
        files["vendor_data.json"] = _json(document.vendor_data)
    if _at_least(version, _SINCE_NETWORK_DATA):
        files["network_data.json"] = _json(openstack_network_data(document))
    if _at_least(version, _SINCE_VENDOR_DATA_2):
        files["vendor_data2.json"] = _json({})
    return files


def _network(number: int, interface: Interface, address: InterfaceAddress) -> dict[str, object]:
    parsed = ip_interface(f"{address.address}/{address.prefix_length}")
    result: dict[str, object] = {
        "id": f"network{number}",
        "link": interface.device,
        "network_id": interface.network_id,
    }
    if parsed.version == 4 and address.dhcp:
        return result | {"type": "ipv4_dhcp"}
    kind = "ipv4" if parsed.version == 4 else "ipv6" if address.is_static else f"ipv6_{address.ipv6_mode}"
    return result | {
        "type": kind,
        "ip_address": address.address,
        "netmask": str(parsed.netmask),
        "routes": [_route(route) for route in _routes(address)],
        "services": [_dns(server) for server in address.nameservers],
    }


def _routes(address: InterfaceAddress) -> tuple[Route, ...]:
    """The default route first."""
    if not address.gateway:
        return address.routes
    return (Route("::/0" if ":" in address.address else "0.0.0.0/0", address.gateway), *address.routes)


def _route(route: Route) -> dict[str, str]:
    destination = ip_network(route.destination)
    return {
        "network": str(destination.network_address),
        "netmask": str(destination.netmask),
        "gateway": route.next_hop,
    }


def _dns(server: str) -> dict[str, str]:
    return {"type": "dns", "address": server}


def _at_least(version: str, needed: str) -> bool:
    return version == "latest" or version >= needed


# ------------------------------------------------------------------------------------------------ NoCloud
def _nocloud(document: InstanceMetadata) -> dict[str, bytes]:
    """`meta-data`, `user-data` and `network-config` of cloud-init's NoCloud source; JSON is YAML too.

    A guest whose cloud-init knows no ConfigDrive finds them when its NoCloud source is told `fs_label: config-2`.
    """
    about: dict[str, object] = {"instance-id": document.instance_id, "local-hostname": document.hostname}
    if document.public_key:
        about["public-keys"] = [document.public_key.strip()]
    config = [_physical(number, interface) for number, interface in enumerate(document.interfaces)]
    return {
        "meta-data": _json(about),
        "user-data": document.user_data or b"",
        "network-config": _json({"version": 1, "config": config}),
    }


def _physical(number: int, interface: Interface) -> dict[str, object]:
    """An interface in version 1 of cloud-init's network configuration, which every version of it reads alike."""
    return {
        "type": "physical",
        "name": f"eth{number}",
        "mac_address": interface.mac,
        "mtu": interface.mtu,
        "subnets": [_subnet(address) for address in interface.addresses],
    }


def _subnet(address: InterfaceAddress) -> dict[str, object]:
    version = ip_interface(address.address).version
    if not address.is_static:
        return {"type": "dhcp4" if version == 4 else f"ipv6_{address.ipv6_mode}"}
    found: dict[str, object] = {
        "type": "static" if version == 4 else "static6",
        "address": f"{address.address}/{address.prefix_length}",
        "routes": [_route(route) for route in address.routes],
        "dns_nameservers": list(address.nameservers),
    }
    return found | ({"gateway": address.gateway} if address.gateway else {})


# ------------------------------------------------------------------------------------------------ EC2
def _ec2_plain(document: InstanceMetadata) -> dict[str, object]:
    """The EC2 document as JSON-able data: what a config drive carries."""
    fixed = [address.address for interface in document.interfaces for address in interface.addresses]
    ipv4 = next((address for address in fixed if ":" not in address), "")
    result: dict[str, object] = {
        "ami-id": "ami-" + (document.image_id or "0" * 8).replace("-", "")[:17],
        "ami-launch-index": document.launch_index,
        "ami-manifest-path": "none",
        "block-device-mapping": {"ami": "vda", "root": "/dev/vda"},
        "hostname": document.hostname,
        "instance-action": "none",
        "instance-id": ec2_instance_id(document.instance_id),
        "instance-type": document.flavor_name,
        "local-hostname": document.hostname,
        "local-ipv4": ipv4,
        "placement": {"availability-zone": document.availability_zone},
        "public-hostname": document.hostname,
        "public-ipv4": document.public_ipv4 or "",
        "reservation-id": document.reservation_id,
        "security-groups": list(document.security_groups),
    }
    if document.public_key:
        key = {_KEY_LINE: f"0={document.key_name or 'key'}", "openssh-key": document.public_key.strip()}
        result["public-keys"] = {"0": key}
    return result


def _ec2_version(document: InstanceMetadata) -> Tree:
    tree: dict[str, bytes | Tree] = {"meta-data": _ec2_tree(_ec2_plain(document))}
    if document.user_data is not None:
        tree["user-data"] = document.user_data
    return tree


def _ec2_tree(plain: Mapping[str, object]) -> Tree:
    tree: dict[str, bytes | Tree] = {}
    for name, value in plain.items():
        if isinstance(value, Mapping):
            tree[name] = _ec2_tree(value)
        elif isinstance(value, list):
            tree[name] = "\n".join(map(str, value)).encode()
        else:
            tree[name] = str(value).encode()
    return tree


# ------------------------------------------------------------------------------------------------ the whole tree
def _root(document: InstanceMetadata) -> Tree:
    ec2 = _ec2_version(document)
    openstack: dict[str, bytes | Tree] = {
        version: _openstack_version(document, version) for version in (*OPENSTACK_VERSIONS, "latest")
    }
    tree: dict[str, bytes | Tree] = dict.fromkeys((*EC2_VERSIONS, "latest"), ec2)
    tree["openstack"] = openstack
    return tree


def _listing(tree: Tree) -> bytes:
    """One name per line; EC2 marks directories with a slash and lists a key as `0=NAME`; the OpenStack part is bare."""
    lines = []
    for name, node in tree.items():
        if name == _KEY_LINE:
            continue
        if isinstance(node, Mapping) and isinstance(node.get(_KEY_LINE), bytes):
            lines.append(_text(node[_KEY_LINE]))
        elif isinstance(node, Mapping) and name not in _BARE_DIRECTORIES:
            lines.append(f"{name}/")
        else:
            lines.append(name)
    return "\n".join(lines).encode()


_BARE_DIRECTORIES = frozenset({*OPENSTACK_VERSIONS, *EC2_VERSIONS, "latest", "openstack"})


def _text(value: bytes | Tree) -> str:
    return value.decode() if isinstance(value, bytes) else ""


def _json(value: object) -> bytes:
    return json.dumps(dict(value) if isinstance(value, Mapping) else value).encode()
