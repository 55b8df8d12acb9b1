"""Services, hypervisors and availability zones. Source: Compute API, "Compute services", "Hypervisors", "AZ"."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Struct, UnsetType

from kilonova.api.compute.fields import Document, Flag, Name, flag, iso_micro
from kilonova.api.compute.microversions import need
from kilonova.api.compute.registry import V21, registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import hosts as use
from kilonova.errors import BadRequest, NotFound

_SERVICE_QUERY = ("host", "binary")


class ServiceBody(Struct, forbid_unknown_fields=True):
    """Before 2.53: which service; from 2.53: what to change."""

    host: Name | UnsetType = UNSET
    binary: Name | UnsetType = UNSET
    status: str | UnsetType = UNSET
    disabled_reason: Name | UnsetType = UNSET
    forced_down: Flag | UnsetType = UNSET


def number_of(service_id: str) -> int:
    """Before 2.53 services and hypervisors have numbers."""
    return int(service_id.replace("-", "")[:7], 16)


def _service(request: ApiRequest, record: use.ServiceRecord) -> Document:
    row = record.row
    shown: Document = {
        "id": row["id"] if request.microversion >= (2, 53) else number_of(row["id"]),
        "binary": record.binary,
        "host": row["host"],
        "zone": row["availability_zone"] if row["kind"] == "compute" else "internal",
        "status": "enabled" if row["enabled"] else "disabled",
        "state": "up" if record.alive else "down",
        "updated_at": iso_micro(row["seen_at"]),
        "disabled_reason": row["disabled_reason"],
    }
    if request.microversion >= (2, 11):
        shown["forced_down"] = row["forced_down"]
    return shown


@registry.route("GET", f"{V21}/os-services", policy=Policy.ADMIN, query=_SERVICE_QUERY)
async def list_services(request: ApiRequest) -> Document:
    records = await request.cloud.store.read(
        use.list_services, host=request.query("host"), binary=request.query("binary")
    )
    return {"services": [_service(request, record) for record in records]}


@registry.route("PUT", f"{V21}/os-services/{{service_id}}", policy=Policy.ADMIN, body=ServiceBody)
async def change_service(request: ApiRequest, body: ServiceBody) -> Document:
    if request.microversion < (2, 53):
        return await _change_by_name(request, body)
    if body.host is not UNSET or body.binary is not UNSET:
        raise BadRequest("Additional properties are not allowed (host and binary ended with API version 2.52)")
    changes: Document = {}
    if body.status is not UNSET:
        if body.status not in ("enabled", "disabled"):
            raise BadRequest(f"Invalid input for field/attribute status. Value: {body.status}. enabled or disabled.")
        changes |= {"enabled": body.status == "enabled", "disabled_reason": None}
    if body.disabled_reason is not UNSET:
        if body.status != "disabled":
            raise BadRequest("Specifying disabled_reason when status is not 'disabled' is invalid.")
        changes["disabled_reason"] = body.disabled_reason
    if body.forced_down is not UNSET:
        changes["forced_down"] = flag("forced_down", body.forced_down)
    if not changes:
        raise BadRequest("No updates were requested. Fields 'status' or 'forced_down' should be specified.")
    record = await request.cloud.store.write(use.change_service, request.path["service_id"], changes)
    return {"service": _service(request, record)}


async def _change_by_name(request: ApiRequest, body: ServiceBody) -> Document:
    """`PUT /os-services/enable|disable|disable-log-reason|force-down` with host and binary."""
    action = request.path["service_id"]
    if body.host is UNSET or body.binary is UNSET:
        raise BadRequest("Invalid input: 'host' and 'binary' are required properties")
    shown: Document = {"host": body.host, "binary": body.binary}
    changes: Document
    if action == "enable":
        changes = {"enabled": True, "disabled_reason": None}
        shown["status"] = "enabled"
    elif action == "disable":
        changes = {"enabled": False, "disabled_reason": None}
        shown["status"] = "disabled"
    elif action == "disable-log-reason":
        if body.disabled_reason is UNSET:
            raise BadRequest("Missing disabled reason field")
        changes = {"enabled": False, "disabled_reason": body.disabled_reason}
        shown |= {"status": "disabled", "disabled_reason": body.disabled_reason}
    elif action == "force-down" and request.microversion >= (2, 11):
        if body.forced_down is UNSET:
            raise BadRequest("Missing forced_down field")
        changes = {"forced_down": flag("forced_down", body.forced_down)}
        shown["forced_down"] = changes["forced_down"]
    else:
        raise NotFound(f"Unknown action {action}")
    service_id = await request.cloud.store.read(use.find_service, body.host, body.binary)
    await request.cloud.store.write(use.change_service, service_id, changes)
    return {"service": shown}


@registry.route("DELETE", f"{V21}/os-services/{{service_id}}", policy=Policy.ADMIN, status=204)
async def delete_service(request: ApiRequest) -> None:
    service_id = request.path["service_id"]
    if request.microversion < (2, 53):
        if not service_id.isdigit():
            raise BadRequest(f"Service id {service_id} is not a number")
        records = await request.cloud.store.read(use.list_services)
        found = [record.row["id"] for record in records if number_of(record.row["id"]) == int(service_id)]
        service_id = found[0] if found else service_id
    await request.cloud.store.write(use.delete_service, service_id)


# ------------------------------------------------------------------------------------------------ hypervisors
HYPERVISORS = f"{V21}/os-hypervisors"
_HYPERVISOR_QUERY = ("limit", "marker", "hypervisor_hostname_pattern", "with_servers")


def _id(request: ApiRequest, record: use.HypervisorRecord) -> str | int:
    service_id = str(record.service.row["id"])
    return service_id if request.microversion >= (2, 53) else number_of(service_id)


def _basic(request: ApiRequest, record: use.HypervisorRecord) -> Document:
    return {
        "id": _id(request, record),
        "hypervisor_hostname": record.service.row["host"],
        "state": "up" if record.service.alive else "down",
        "status": "enabled" if record.service.row["enabled"] else "disabled",
    }


def _full(request: ApiRequest, record: use.HypervisorRecord) -> Document:
    row, capacity = record.service.row, record.capacity
    ram_mb, disk_gb = int(capacity.get("ram_mb", 0)), int(capacity.get("disk_gb", 0))
    cpu_info = capacity.get("cpu_info") or {}
    return _basic(request, record) | {
        "service": {
            "id": _id(request, record),
            "host": row["host"],
            "disabled_reason": row["disabled_reason"],
        },
        "host_ip": "127.0.0.1",
        "hypervisor_type": str(capacity.get("hypervisor_type", "unknown")),
        "hypervisor_version": int(capacity.get("hypervisor_version", 0)),
        "cpu_info": cpu_info if request.microversion >= (2, 28) else msgspec.json.encode(cpu_info).decode(),
        "vcpus": int(capacity.get("vcpus", 0)),
        "vcpus_used": record.used_vcpus,
        "memory_mb": ram_mb,
        "memory_mb_used": record.used_ram_mb,
        "free_ram_mb": ram_mb - record.used_ram_mb,
        "local_gb": disk_gb,
        "local_gb_used": record.used_disk_gb,
        "free_disk_gb": disk_gb - record.used_disk_gb,
        "disk_available_least": disk_gb - record.used_disk_gb,
        "running_vms": record.instances,
        "current_workload": 0,
    }


async def _list(request: ApiRequest, *, full: bool) -> Document:
    from_2_53 = request.microversion >= (2, 53)
    pattern = request.query("hypervisor_hostname_pattern") if from_2_53 else None
    records = await request.cloud.store.read(use.list_hypervisors, pattern=pattern)
    if pattern is not None and not records:
        raise NotFound(f"No hypervisor matching '{pattern}' could be found.")
    if request.microversion >= (2, 33):
        records = _page(request, records)
    shown = [_full(request, record) if full else _basic(request, record) for record in records]
    if from_2_53 and request.query_bool("with_servers"):
        await _add_servers(request, shown)
    return {"hypervisors": shown}


def _page(request: ApiRequest, records: list[use.HypervisorRecord]) -> list[use.HypervisorRecord]:
    marker, limit = request.query("marker"), request.query_int("limit", most=1000)
    if marker is not None:
        positions = [index for index, record in enumerate(records) if str(_id(request, record)) == marker]
        if not positions:
            raise BadRequest(f"marker [{marker}] not found")
        records = records[positions[0] + 1 :]
    return records if limit is None else records[:limit]


async def _add_servers(request: ApiRequest, shown: list[Document]) -> None:
    """From 2.75 also hosts without servers have the field."""
    servers = await request.cloud.store.read(use.instances_by_host)
    for document in shown:
        here = [{"uuid": i, "name": name} for i, name in servers.get(document["hypervisor_hostname"], [])]
        if here or request.microversion >= (2, 75):
            document["servers"] = here


@registry.route("GET", HYPERVISORS, policy=Policy.ADMIN, query=_HYPERVISOR_QUERY)
async def list_hypervisors(request: ApiRequest) -> Document:
    return await _list(request, full=False)


@registry.route("GET", f"{HYPERVISORS}/detail", policy=Policy.ADMIN, query=_HYPERVISOR_QUERY)
async def list_hypervisors_detail(request: ApiRequest) -> Document:
    return await _list(request, full=True)


@registry.route("GET", f"{HYPERVISORS}/statistics", policy=Policy.ADMIN)
async def statistics(request: ApiRequest) -> Document:
    records = await request.cloud.store.read(use.list_hypervisors)
    full = [_full(request, record) for record in records]
    summed = (
        "vcpus",
        "vcpus_used",
        "memory_mb",
        "memory_mb_used",
        "free_ram_mb",
        "local_gb",
        "local_gb_used",
        "free_disk_gb",
        "disk_available_least",
        "running_vms",
        "current_workload",
    )
    totals = {name: sum(document[name] for document in full) for name in summed}
    return {"hypervisor_statistics": {"count": len(full), **totals}}


async def _one(request: ApiRequest) -> use.HypervisorRecord:
    wanted = request.path["hypervisor_id"]
    for record in await request.cloud.store.read(use.list_hypervisors):
        if str(_id(request, record)) == wanted:
            return record
    raise NotFound(f"Hypervisor with ID '{wanted}' could not be found.")


@registry.route("GET", f"{HYPERVISORS}/{{hypervisor_id}}", policy=Policy.ADMIN, query=("with_servers",))
async def show_hypervisor(request: ApiRequest) -> Document:
    document = _full(request, await _one(request))
    if request.microversion >= (2, 53) and request.query_bool("with_servers"):
        await _add_servers(request, [document])
    return {"hypervisor": document}


@registry.route("GET", f"{HYPERVISORS}/{{hypervisor_id}}/uptime", policy=Policy.ADMIN)
async def uptime(request: ApiRequest) -> Document:
    record = await _one(request)
    if not record.service.alive:
        raise BadRequest(f"Service is unavailable: compute host {record.service.row['host']} is down.")
    began = record.service.row["started_at"]
    seen = record.service.row["seen_at"]
    return {"hypervisor": _basic(request, record) | {"uptime": f"up {seen - began}"}}


@registry.route("GET", f"{HYPERVISORS}/{{hypervisor_id}}/search", policy=Policy.ADMIN)
async def search(request: ApiRequest) -> Document:
    need(request, (2, 1), (2, 52))
    pattern = request.path["hypervisor_id"]
    records = await request.cloud.store.read(use.list_hypervisors, pattern=pattern)
    if not records:
        raise NotFound(f"No hypervisor matching '{pattern}' could be found.")
    return {"hypervisors": [_basic(request, record) for record in records]}


@registry.route("GET", f"{HYPERVISORS}/{{hypervisor_id}}/servers", policy=Policy.ADMIN)
async def servers_of(request: ApiRequest) -> Document:
    need(request, (2, 1), (2, 52))
    pattern = request.path["hypervisor_id"]
    records = await request.cloud.store.read(use.list_hypervisors, pattern=pattern)
    if not records:
        raise NotFound(f"No hypervisor matching '{pattern}' could be found.")
    shown = [_basic(request, record) for record in records]
    await _add_servers(request, shown)
    return {"hypervisors": shown}


# ------------------------------------------------------------------------------------------------ zones
@registry.route("GET", f"{V21}/os-availability-zone", policy=Policy.READER)
async def list_zones(request: ApiRequest) -> Document:
    zones = await request.cloud.store.read(use.availability_zones)
    return {"availabilityZoneInfo": [_zone(name, records, None) for name, records in zones.items()]}


@registry.route("GET", f"{V21}/os-availability-zone/detail", policy=Policy.ADMIN)
async def list_zones_detail(request: ApiRequest) -> Document:
    zones = await request.cloud.store.read(use.availability_zones)
    shown = []
    for name, records in zones.items():
        hosts: Document = {}
        for record in records:
            hosts.setdefault(record.row["host"], {})[record.binary] = {
                "active": bool(record.row["enabled"]),
                "available": record.alive,
                "updated_at": iso_micro(record.row["seen_at"]),
            }
        shown.append(_zone(name, records, hosts))
    return {"availabilityZoneInfo": shown}


def _zone(name: str, records: list[use.ServiceRecord], hosts: Document | None) -> Document:
    available = any(record.row["enabled"] and record.alive for record in records)
    return {"zoneName": name, "zoneState": {"available": available}, "hosts": hosts}


@registry.route("GET", f"{V21}/os-aggregates", policy=Policy.ADMIN)
async def list_aggregates(_request: ApiRequest) -> Document:
    """Hosts are not grouped here; clients ask when they show a hypervisor."""
    return {"aggregates": []}
