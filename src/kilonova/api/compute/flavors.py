"""Flavors, their extra specs and who may use them. Source: Compute API, "Flavors"."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field
from sqlalchemy import RowMapping
from starlette.responses import Response

from kilonova.api.compute.fields import (
    Count,
    Description,
    Document,
    Flag,
    Name,
    Text255,
    check_name,
    count,
    flag,
    links,
    next_link,
    only_from,
    only_known,
    page,
)
from kilonova.api.compute.microversions import need
from kilonova.api.compute.registry import V21, registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import flavors as use
from kilonova.errors import BadRequest, NotFound

Specs = dict[Annotated[str, Meta(pattern=r"^[a-zA-Z0-9-_:. ]{1,255}$")], Text255 | int | float]

_QUERY = ("limit", "marker", "is_public", "sort_key", "sort_dir", "minDisk", "minRam")
_SORT = ("created_at", "flavorid", "id", "is_public", "memory_mb", "name", "root_gb", "rxtx_factor", "swap", "vcpus")
_MOST = 2**31 - 1


class FlavorBody(Struct, forbid_unknown_fields=True):
    name: Name
    ram: Count
    vcpus: Count
    disk: Count
    id: str | int | UnsetType | None = UNSET
    ephemeral: Count | UnsetType = field(name="OS-FLV-EXT-DATA:ephemeral", default=UNSET)
    swap: Count | UnsetType = UNSET
    rxtx_factor: float | str | UnsetType = UNSET
    is_public: Flag | UnsetType = field(name="os-flavor-access:is_public", default=UNSET)
    description: Description | UnsetType | None = UNSET


class CreateFlavor(Struct, forbid_unknown_fields=True):
    flavor: FlavorBody


class FlavorUpdate(Struct, forbid_unknown_fields=True):
    description: Description | None


class UpdateFlavor(Struct, forbid_unknown_fields=True):
    flavor: FlavorUpdate


class ExtraSpecs(Struct, forbid_unknown_fields=True):
    extra_specs: Specs


class Tenant(Struct, forbid_unknown_fields=True):
    tenant: Annotated[str, Meta(min_length=1, max_length=255)]


class FlavorAction(Struct, forbid_unknown_fields=True):
    add: Tenant | UnsetType = field(name="addTenantAccess", default=UNSET)
    remove: Tenant | UnsetType = field(name="removeTenantAccess", default=UNSET)


def _view(request: ApiRequest, row: RowMapping) -> Document:
    version = request.microversion
    shown: Document = {
        "id": row["id"],
        "name": row["name"],
        "ram": row["ram_mb"],
        "disk": row["disk_gb"],
        "vcpus": row["vcpus"],
        "swap": row["swap_mb"] if row["swap_mb"] or version >= (2, 75) else "",
        "OS-FLV-EXT-DATA:ephemeral": row["ephemeral_gb"],
        "OS-FLV-DISABLED:disabled": False,
        "rxtx_factor": row["rxtx_factor"],
        "os-flavor-access:is_public": row["is_public"],
        "links": links(request, "flavors", row["id"]),
    }
    if version >= (2, 55):
        shown["description"] = row["description"]
    if version >= (2, 61):
        shown["extra_specs"] = row["extra_specs"]
    return shown


def _filter(request: ApiRequest) -> use.FlavorFilter:
    only_known(request, _QUERY)
    is_public: bool | None = True
    every = False
    asked = request.query("is_public")
    if request.context.is_admin and asked is not None:
        if asked.lower() == "none":
            every = True
        else:
            is_public = request.query_bool("is_public")
    return use.FlavorFilter(
        is_public=is_public,
        every=every,
        min_disk_gb=request.query_int("minDisk"),
        min_ram_mb=request.query_int("minRam"),
    )


@registry.route("GET", f"{V21}/flavors", policy=Policy.READER, query=_QUERY)
async def list_basic(request: ApiRequest) -> Document:
    rows = await _rows(request)
    shown: list[Document] = []
    for row in rows:
        flavor: Document = {"id": row["id"], "name": row["name"], "links": links(request, "flavors", row["id"])}
        if request.microversion >= (2, 55):
            flavor["description"] = row["description"]
        shown.append(flavor)
    return _listed(request, rows, shown)


@registry.route("GET", f"{V21}/flavors/detail", policy=Policy.READER, query=_QUERY)
async def list_detail(request: ApiRequest) -> Document:
    rows = await _rows(request)
    return _listed(request, rows, [_view(request, row) for row in rows])


async def _rows(request: ApiRequest) -> list[RowMapping]:
    wanted = page(request, _SORT, default_direction="asc")
    return await request.cloud.store.read(use.list_flavors, request.context, _filter(request), wanted)


def _listed(request: ApiRequest, rows: list[RowMapping], shown: list[Document]) -> Document:
    document: Document = {"flavors": shown}
    if following := next_link(request, page(request, _SORT, default_direction="asc"), [row["id"] for row in rows]):
        document["flavors_links"] = following
    return document


@registry.route("POST", f"{V21}/flavors", policy=Policy.ADMIN, body=CreateFlavor)
async def create(request: ApiRequest, body: CreateFlavor) -> Document:
    flavor = body.flavor
    only_from(request, flavor, {"description": (2, 55)})
    flavor_id = None if flavor.id is UNSET or flavor.id is None or flavor.id == "auto" else str(flavor.id)
    if flavor_id is not None and not re.fullmatch(r"[a-zA-Z0-9.\-_ ]{1,255}", flavor_id):
        raise BadRequest(
            f"Invalid input for field/attribute id. Value: {flavor_id}. Use letters, digits, '.', '-', '_'."
        )
    if flavor_id is not None and flavor_id != flavor_id.strip():
        raise BadRequest("Invalid input for field/attribute id: it must not begin or end with a space.")
    new = use.NewFlavor(
        id=flavor_id,
        name=check_name("name", flavor.name),
        ram_mb=count("ram", flavor.ram, most=_MOST),
        vcpus=count("vcpus", flavor.vcpus, most=_MOST),
        disk_gb=count("disk", flavor.disk, least=0, most=_MOST),
        ephemeral_gb=0 if flavor.ephemeral is UNSET else count("ephemeral", flavor.ephemeral, least=0),
        swap_mb=0 if flavor.swap is UNSET else count("swap", flavor.swap, least=0),
        rxtx_factor=_rxtx(flavor.rxtx_factor),
        is_public=True if flavor.is_public is UNSET else flag("os-flavor-access:is_public", flavor.is_public),
        description=None if flavor.description is UNSET else flavor.description,
    )
    row = await request.cloud.store.write(use.create_flavor, new)
    return {"flavor": _view(request, row)}


def _rxtx(value: float | str | UnsetType) -> float:
    if value is UNSET:
        return 1.0
    try:
        factor = float(value)
    except ValueError:
        factor = 0.0
    if not 0 < factor < 3.4e38:
        raise BadRequest(f"Invalid input for field/attribute rxtx_factor. Value: {value}. It must be positive.")
    return factor


@registry.route("GET", f"{V21}/flavors/{{flavor_id}}", policy=Policy.READER)
async def show(request: ApiRequest) -> Document:
    row = await request.cloud.store.read(use.visible_flavor, request.context, request.path["flavor_id"])
    return {"flavor": _view(request, row)}


@registry.route("PUT", f"{V21}/flavors/{{flavor_id}}", policy=Policy.ADMIN, body=UpdateFlavor)
async def update(request: ApiRequest, body: UpdateFlavor) -> Document:
    need(request, (2, 55))
    flavor_id = request.path["flavor_id"]
    row = await request.cloud.store.write(use.describe_flavor, flavor_id, body.flavor.description)
    return {"flavor": _view(request, row)}


@registry.route("DELETE", f"{V21}/flavors/{{flavor_id}}", policy=Policy.ADMIN, status=202)
async def delete(request: ApiRequest) -> None:
    await request.cloud.store.write(use.delete_flavor, request.path["flavor_id"])


# ------------------------------------------------------------------------------------------------ extra specs
SPECS = f"{V21}/flavors/{{flavor_id}}/os-extra_specs"


@registry.route("GET", SPECS, policy=Policy.READER)
async def list_specs(request: ApiRequest) -> Document:
    read = request.cloud.store.read
    return {"extra_specs": await read(use.extra_specs, request.context, request.path["flavor_id"])}


@registry.route("POST", SPECS, policy=Policy.ADMIN, body=ExtraSpecs)
async def add_specs(request: ApiRequest, body: ExtraSpecs) -> Document:
    specs = {key: str(value) for key, value in body.extra_specs.items()}
    await request.cloud.store.write(use.set_extra_specs, request.path["flavor_id"], specs)
    return {"extra_specs": specs}


@registry.route("GET", f"{SPECS}/{{key}}", policy=Policy.READER)
async def show_spec(request: ApiRequest) -> Document:
    flavor_id, key = request.path["flavor_id"], request.path["key"]
    specs = await request.cloud.store.read(use.extra_specs, request.context, flavor_id)
    if key not in specs:
        raise NotFound(f"Flavor {flavor_id} has no extra specs with key {key}.")
    return {key: specs[key]}


@registry.route("PUT", f"{SPECS}/{{key}}", policy=Policy.ADMIN, streams=True)
async def set_spec(request: ApiRequest) -> Document:
    key = request.path["key"]
    try:
        specs = msgspec.json.decode(await request.http.body(), type=Specs)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"Invalid input: {error}") from None
    if list(specs) != [key]:
        raise BadRequest("Request body and URI mismatch")
    values = {name: str(value) for name, value in specs.items()}
    await request.cloud.store.write(use.set_extra_specs, request.path["flavor_id"], values)
    return values


@registry.route("DELETE", f"{SPECS}/{{key}}", policy=Policy.ADMIN)
async def delete_spec(request: ApiRequest) -> Response:
    await request.cloud.store.write(use.delete_extra_spec, request.path["flavor_id"], request.path["key"])
    return Response(status_code=200)


# ------------------------------------------------------------------------------------------------ access
@registry.route("GET", f"{V21}/flavors/{{flavor_id}}/os-flavor-access", policy=Policy.ADMIN)
async def list_access(request: ApiRequest) -> Document:
    flavor_id = request.path["flavor_id"]
    return _access(flavor_id, await request.cloud.store.read(use.access_list, flavor_id))


@registry.route("POST", f"{V21}/flavors/{{flavor_id}}/action", policy=Policy.ADMIN, body=FlavorAction)
async def act(request: ApiRequest, body: FlavorAction) -> Document:
    flavor_id, write = request.path["flavor_id"], request.cloud.store.write
    if isinstance(body.add, Tenant) and body.remove is UNSET:
        refuse_public = request.microversion >= (2, 7)
        projects = await write(use.add_access, flavor_id, body.add.tenant, refuse_public=refuse_public)
    elif isinstance(body.remove, Tenant) and body.add is UNSET:
        projects = await write(use.remove_access, flavor_id, body.remove.tenant)
    else:
        raise BadRequest("The body must name exactly one of addTenantAccess and removeTenantAccess")
    return _access(flavor_id, projects)


def _access(flavor_id: str, projects: list[str]) -> Document:
    return {"flavor_access": [{"flavor_id": flavor_id, "tenant_id": project} for project in projects]}
