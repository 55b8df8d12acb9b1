"""How a server looks in each microversion. Pure: records in, documents out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import RowMapping

from kilonova.api.compute.fields import Document, iso, iso_micro, links
from kilonova.api.compute.microversions import Version
from kilonova.api.routing import ApiRequest
from kilonova.cloud.server_lists import ServerAddress, ServerRecord
from kilonova.cloud.server_status import WITH_PROGRESS, status_of


@lru_cache(maxsize=4096)
def host_id(project_id: str, host: str | None) -> str:
    """An opaque name of the host that differs from project to project."""
    return hashlib.sha224(f"{project_id}{host}".encode()).hexdigest() if host else ""


def basic(request: ApiRequest, row: RowMapping) -> Document:
    return {"id": row["id"], "name": row["name"], "links": links(request, "servers", row["id"])}


def addresses(found: Sequence[ServerAddress], *, extended: bool = True) -> dict[str, list[Document]]:
    networks: dict[str, list[Document]] = {}
    for address in found:
        shown: Document = {"version": address.version, "addr": address.address}
        if extended:
            shown |= {"OS-EXT-IPS:type": address.kind, "OS-EXT-IPS-MAC:mac_addr": address.mac}
        networks.setdefault(address.network, []).append(shown)
    return networks


def detail(request: ApiRequest, record: ServerRecord, *, shown_alone: bool = False) -> Document:
    """All of a server. `shown_alone`: with what only the single server's document has."""
    row, version, base = record.row, request.microversion, request.base_url
    status = status_of(row["vm_state"], row["task_state"])
    host = row["host"]
    document: Document = {
        "id": row["id"],
        "name": row["name"],
        "status": status,
        "tenant_id": row["project_id"],
        "user_id": row["user_id"],
        "metadata": row["metadata"],
        "hostId": host_id(row["project_id"], host),
        "image": _image(base, row["image_id"]),
        "flavor": _flavor(base, version, row),
        "created": iso(row["created_at"]),
        "updated": iso(row["updated_at"]),
        "addresses": addresses(record.addresses),
        "accessIPv4": row["access_ip_v4"] or "",
        "accessIPv6": row["access_ip_v6"] or "",
        "links": [
            {"rel": "self", "href": f"{base}/compute/v2.1/servers/{row['id']}"},
            {"rel": "bookmark", "href": f"{base}/compute/servers/{row['id']}"},
        ],
        "OS-DCF:diskConfig": row["disk_config"],
        "OS-EXT-AZ:availability_zone": (row["availability_zone"] or "nova")
        if host
        else (row["availability_zone"] or ""),
        "config_drive": "True" if row["config_drive"] else "",
        "key_name": row["key_name"],
        "OS-SRV-USG:launched_at": iso_micro(row["launched_at"]),
        "OS-SRV-USG:terminated_at": None,
        "OS-EXT-STS:task_state": row["task_state"],
        "OS-EXT-STS:vm_state": row["vm_state"],
        "OS-EXT-STS:power_state": row["power_state"],
        "os-extended-volumes:volumes_attached": [],
    }
    if status in WITH_PROGRESS:
        document["progress"] = 100 if status == "ACTIVE" else row["progress"]
    if record.groups:
        document["security_groups"] = [{"name": name} for name in record.groups]
    if record.fault is not None:
        document["fault"] = _fault(request, record.fault)
    if request.context.is_admin:
        document |= _administrators(row, version)
        if version >= (2, 16):
            document["host_status"] = record.host_status
    if version >= (2, 9):
        document["locked"] = row["locked"]
    if version >= (2, 19):
        document["description"] = row["description"]
    if version >= (2, 26):
        document["tags"] = row["tags"]
    if version >= (2, 63):
        document["trusted_image_certificates"] = None
    if version >= (2, 71) and shown_alone:
        document["server_groups"] = []
    if version >= (2, 73):
        document["locked_reason"] = row["locked_reason"]
    return document


def _image(base: str, image_id: str | None) -> Any:
    if not image_id:
        return ""
    return {"id": image_id, "links": [{"rel": "bookmark", "href": f"{base}/compute/images/{image_id}"}]}


def _flavor(base: str, version: Version, row: RowMapping) -> Document:
    kept = row["flavor"]
    if version >= (2, 47):
        return {
            "vcpus": kept["vcpus"],
            "ram": kept["ram_mb"],
            "disk": kept["disk_gb"],
            "ephemeral": kept["ephemeral_gb"],
            "swap": kept["swap_mb"],
            "original_name": kept["name"],
            "extra_specs": kept["extra_specs"],
        }
    href = f"{base}/compute/flavors/{row['flavor_id']}"
    return {"id": row["flavor_id"], "links": [{"rel": "bookmark", "href": href}]}


def _fault(request: ApiRequest, fault: RowMapping) -> Document:
    shown: Document = {"code": fault["code"], "created": iso(fault["created_at"]), "message": fault["message"]}
    if fault["details"] and (request.context.is_admin or fault["code"] != 500):
        shown["details"] = fault["details"]
    return shown


def _administrators(row: RowMapping, version: Version) -> Document:
    shown: Document = {
        "OS-EXT-SRV-ATTR:host": row["host"],
        "OS-EXT-SRV-ATTR:hypervisor_hostname": row["host"],
        "OS-EXT-SRV-ATTR:instance_name": f"instance-{row['id'][:8]}",
    }
    if version >= (2, 3):
        shown |= {
            "OS-EXT-SRV-ATTR:reservation_id": row["reservation_id"],
            "OS-EXT-SRV-ATTR:launch_index": row["launch_index"],
            "OS-EXT-SRV-ATTR:hostname": row["hostname"],
            "OS-EXT-SRV-ATTR:kernel_id": "",
            "OS-EXT-SRV-ATTR:ramdisk_id": "",
            "OS-EXT-SRV-ATTR:root_device_name": "/dev/vda",
            "OS-EXT-SRV-ATTR:user_data": row["user_data"],
        }
    return shown
