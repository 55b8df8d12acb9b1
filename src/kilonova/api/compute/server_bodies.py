"""The bodies of server requests: what may be in them, from which version on, and the request they make.

Source: Compute API, "Servers"; a field that a version does not know is refused, as its schema says.
"""

from __future__ import annotations

import base64
import binascii
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from kilonova.api.compute.fields import (
    Count,
    Description,
    Flag,
    Metadata,
    Name,
    Tag,
    Text255,
    check_name,
    check_uuid,
    count,
    flag,
    only_from,
    only_until,
)
from kilonova.api.compute.microversions import Version
from kilonova.api.routing import ApiRequest
from kilonova.cloud.server_networks import NetworkChoice, Nic
from kilonova.cloud.servers import NewServer
from kilonova.errors import BadRequest, Forbidden

MOST_USER_DATA = 65535
MOST_NICS = 32
DiskConfig = Literal["AUTO", "MANUAL"]


class NetworkBody(Struct, forbid_unknown_fields=True):
    uuid: str | UnsetType = UNSET
    port: str | UnsetType | None = UNSET
    fixed_ip: str | UnsetType = UNSET
    tag: Tag | UnsetType = UNSET


class GroupBody(Struct, forbid_unknown_fields=True):
    name: Text255


class ServerBody(Struct, forbid_unknown_fields=True):
    name: Name
    flavor_ref: str | int = field(name="flavorRef")
    image_ref: str | UnsetType = field(name="imageRef", default=UNSET)
    admin_pass: Annotated[str, Meta(max_length=255)] | UnsetType = field(name="adminPass", default=UNSET)
    metadata: Metadata | UnsetType = UNSET
    networks: list[NetworkBody] | Literal["auto", "none"] | UnsetType = UNSET
    disk_config: DiskConfig | UnsetType = field(name="OS-DCF:diskConfig", default=UNSET)
    access_ip_v4: str | UnsetType = field(name="accessIPv4", default=UNSET)
    access_ip_v6: str | UnsetType = field(name="accessIPv6", default=UNSET)
    availability_zone: Name | UnsetType | None = UNSET
    block_device_mapping: list[object] | UnsetType = UNSET
    block_device_mapping_v2: list[dict[str, object]] | UnsetType = UNSET
    config_drive: Flag | UnsetType | None = UNSET
    key_name: Name | UnsetType | None = UNSET
    min_count: Count | UnsetType = UNSET
    max_count: Count | UnsetType = UNSET
    return_reservation_id: Flag | UnsetType = UNSET
    security_groups: list[GroupBody] | UnsetType = UNSET
    user_data: Annotated[str, Meta(max_length=MOST_USER_DATA)] | UnsetType | None = UNSET
    personality: list[object] | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    tags: Annotated[list[Tag], Meta(max_length=50)] | UnsetType = UNSET
    trusted_image_certificates: list[str] | UnsetType | None = UNSET
    host: Name | UnsetType = UNSET
    hypervisor_hostname: Name | UnsetType = UNSET


class CreateServer(Struct, forbid_unknown_fields=True):
    server: ServerBody
    hints: dict[str, object] | UnsetType = field(name="os:scheduler_hints", default=UNSET)
    legacy_hints: dict[str, object] | UnsetType = field(name="OS-SCH-HNT:scheduler_hints", default=UNSET)


class UpdateServerBody(Struct, forbid_unknown_fields=True):
    name: Name | UnsetType = UNSET
    disk_config: DiskConfig | UnsetType = field(name="OS-DCF:diskConfig", default=UNSET)
    access_ip_v4: str | UnsetType = field(name="accessIPv4", default=UNSET)
    access_ip_v6: str | UnsetType = field(name="accessIPv6", default=UNSET)
    description: Description | UnsetType | None = UNSET


class UpdateServer(Struct, forbid_unknown_fields=True):
    server: UpdateServerBody


_SINCE: dict[str, Version] = {
    "description": (2, 19),
    "tags": (2, 52),
    "trusted_image_certificates": (2, 63),
    "host": (2, 74),
    "hypervisor_hostname": (2, 74),
}
_UNTIL: dict[str, Version] = {"personality": (2, 56)}


def new_server(request: ApiRequest, body: CreateServer) -> NewServer:
    """The request, checked as far as a body can be without the database."""
    server = body.server
    only_from(request, server, _SINCE)
    only_until(request, server, _UNTIL)
    _refuse_unsupported(server)
    least = count("min_count", server.min_count) if server.min_count is not UNSET else None
    most = count("max_count", server.max_count) if server.max_count is not UNSET else None
    min_count = least or 1
    max_count = most or max(min_count, 1)
    if min_count > max_count:
        raise BadRequest("min_count must be <= max_count")
    host = None
    for wanted in (server.host, server.hypervisor_hostname):
        if wanted is not UNSET:
            if not request.context.is_admin:
                raise Forbidden("Only an administrator may name the host of a server.")
            host = wanted
    return NewServer(
        name=check_name("name", server.name),
        flavor_id=str(server.flavor_ref).rstrip("/").rpartition("/")[2],
        image_id=_image(server),
        networks=_networks(request, server),
        key_name=server.key_name or None,
        security_groups=[group.name for group in server.security_groups or ()],
        user_data=_user_data(server.user_data or None),
        metadata=server.metadata or {},
        config_drive=_config_drive(server),
        availability_zone=server.availability_zone or None,
        host=host,
        description=None if server.description is UNSET else server.description,
        tags=server.tags or (),
        disk_config=server.disk_config or "MANUAL",
        access_ip_v4=_access_ip("accessIPv4", server.access_ip_v4),
        access_ip_v6=_access_ip("accessIPv6", server.access_ip_v6),
        min_count=min_count,
        max_count=max_count,
    )


def _refuse_unsupported(server: ServerBody) -> None:
    if server.personality:
        raise BadRequest("personality: files cannot be injected into servers here: use user_data or metadata")
    if server.trusted_image_certificates not in (UNSET, None, []):
        raise BadRequest("trusted_image_certificates: signatures of images are not validated by this cloud")
    if server.block_device_mapping:
        raise BadRequest("block_device_mapping: servers boot from images here: give imageRef")


def _config_drive(server: ServerBody) -> bool:
    if server.config_drive is UNSET or server.config_drive in (None, ""):
        return False
    assert server.config_drive is not None
    return flag("config_drive", server.config_drive)


def _image(server: ServerBody) -> str:
    """The image of a server; a block device mapping may say the same again, anything else needs volumes."""
    image = server.image_ref or ""
    for device in server.block_device_mapping_v2 or ():
        source, destination = device.get("source_type"), device.get("destination_type", "local")
        index = str(device.get("boot_index", ""))
        if source != "image" or destination != "local" or index != "0":
            raise BadRequest(
                f"block_device_mapping_v2: source_type {source} to destination_type {destination} is not supported: "
                "only an image as the local boot disk is"
            )
        mapped = str(device.get("uuid", ""))
        if image and mapped != image:
            raise BadRequest("Block Device Mapping is Invalid: the mapping of image to local must match imageRef.")
        image = mapped
    if not image:
        raise BadRequest("Invalid imageRef provided: a server needs an image to boot from")
    return check_uuid("imageRef", image)


def _networks(request: ApiRequest, server: ServerBody) -> NetworkChoice:
    wanted = server.networks
    if wanted is UNSET:
        if request.microversion >= (2, 37):
            raise BadRequest("Invalid input for field/attribute server. 'networks' is a required property")
        return None
    if isinstance(wanted, str):
        if request.microversion < (2, 37):
            raise BadRequest(f"Invalid input for field/attribute networks. Value: {wanted}. It needs API version 2.37")
        return "auto" if wanted == "auto" else "none"
    if len(wanted) > MOST_NICS:
        raise BadRequest(f"networks: {len(wanted)} interfaces are more than {MOST_NICS}")
    nics = [_nic(request, item) for item in wanted]
    duplicates = {nic.port_id for nic in nics if nic.port_id and [n.port_id for n in nics].count(nic.port_id) > 1}
    if duplicates:
        raise BadRequest(f"Duplicate ports ({', '.join(sorted(duplicates))}) are not allowed")
    return nics or None


def _nic(request: ApiRequest, item: NetworkBody) -> Nic:
    if item.tag is not UNSET and not ((2, 32) <= request.microversion <= (2, 36) or request.microversion >= (2, 42)):
        raise BadRequest("Additional properties are not allowed ('tag' was unexpected)")
    tag = item.tag or None
    if item.port:
        if item.fixed_ip is not UNSET:
            raise BadRequest(f"Specified Fixed IP '{item.fixed_ip}' cannot be used with port '{item.port}'")
        return Nic(port_id=check_uuid("port", item.port), tag=tag)
    if not item.uuid:
        raise BadRequest("networks: each needs a 'uuid' or a 'port'")
    if item.fixed_ip is not UNSET:
        try:
            ip_address(item.fixed_ip)
        except ValueError:
            raise BadRequest(f"Invalid fixed IP address ({item.fixed_ip})") from None
    return Nic(network_id=check_uuid("networks.uuid", item.uuid), fixed_ip=item.fixed_ip or None, tag=tag)


def _user_data(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        try:
            base64.b64decode("".join(value.split()), validate=True)
        except (binascii.Error, ValueError):
            raise BadRequest("Invalid input for field/attribute user_data. It is not a 'base64'") from None
    return value


def _access_ip(name: str, value: str | UnsetType) -> str | None:
    if value is UNSET or value == "":
        return None
    try:
        if "%" in value:
            raise AddressValueError("a scope has no meaning here")
        return str(IPv4Address(value) if name == "accessIPv4" else IPv6Address(value))
    except (AddressValueError, ValueError):
        raise BadRequest(f"Invalid input for field/attribute {name}. Value: {value}. It is no such address.") from None


def changes(request: ApiRequest, body: UpdateServer) -> dict[str, object]:
    """The columns that an update changes."""
    server = body.server
    only_from(request, server, {"description": (2, 19)})
    changed: dict[str, object] = {}
    if server.name is not UNSET:
        changed["name"] = check_name("name", server.name)
    if server.disk_config is not UNSET:
        changed["disk_config"] = server.disk_config
    if server.access_ip_v4 is not UNSET:
        changed["access_ip_v4"] = _access_ip("accessIPv4", server.access_ip_v4)
    if server.access_ip_v6 is not UNSET:
        changed["access_ip_v6"] = _access_ip("accessIPv6", server.access_ip_v6)
    if server.description is not UNSET:
        changed["description"] = server.description
    if not changed:
        raise BadRequest("Invalid input for field/attribute server: it does not have enough properties")
    return changed
