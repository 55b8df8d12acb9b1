"""The routes that every resource has: list, create (one or many), show, update, delete."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from kilonova.api.network import bodies
from kilonova.api.network.bodies import fields_of
from kilonova.api.network.lists import PARAMETERS, page, query_of, reduced
from kilonova.api.network.registry import VERSION, registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import floating_ips, networks, ports, routers, security_groups, subnets
from kilonova.cloud.controller import Cloud
from kilonova.cloud.network_lists import Document, Query, Resource, find, show
from kilonova.context import Context
from kilonova.errors import BadRequest

Create = Callable[[Cloud, Context, Sequence[Mapping[str, Any]]], Awaitable[list[Document]]]
Change = Callable[[Cloud, Context, str, Mapping[str, Any]], Awaitable[Document]]
Remove = Callable[[Cloud, Context, str], Awaitable[None]]
Find = Callable[[Cloud, Context, Query], Awaitable[list[Document]]]


@dataclass(frozen=True)
class Served:
    """One resource as this API serves it."""

    plural: str
    """As in the path."""
    singular: str
    """As in a body."""
    resource: Resource
    create: Create
    new: type[Struct]
    remove: Remove
    change: Change | None = None
    changed: type[Struct] | None = None
    find: Find | None = None


SERVED = (
    Served(
        "networks",
        "network",
        networks.NETWORKS,
        networks.create,
        bodies.NewNetwork,
        networks.remove,
        networks.change,
        bodies.NetworkChange,
    ),
    Served(
        "subnets",
        "subnet",
        subnets.SUBNETS,
        subnets.create,
        bodies.NewSubnet,
        subnets.remove,
        subnets.change,
        bodies.SubnetChange,
    ),
    Served("ports", "port", ports.PORTS, ports.create, bodies.NewPort, ports.remove, ports.change, bodies.PortChange),
    Served(
        "routers",
        "router",
        routers.ROUTERS,
        routers.create,
        bodies.NewRouter,
        routers.remove,
        routers.change,
        bodies.RouterChange,
    ),
    Served(
        "security-groups",
        "security_group",
        security_groups.GROUPS,
        security_groups.create,
        bodies.NewGroup,
        security_groups.remove,
        security_groups.change,
        bodies.GroupChange,
        security_groups.find_groups,
    ),
    Served(
        "security-group-rules",
        "security_group_rule",
        security_groups.RULES,
        security_groups.create_rules,
        bodies.NewRule,
        security_groups.remove_rule,
    ),
    Served(
        "floatingips",
        "floatingip",
        floating_ips.FLOATING_IPS,
        floating_ips.create,
        bodies.NewFloatingIp,
        floating_ips.remove,
        floating_ips.change,
        bodies.FloatingIpChange,
    ),
)


def _serve(served: Served) -> None:
    path = f"{VERSION}/{served.plural}"
    filters = tuple(
        sorted({*served.resource.columns, *served.resource.conditions, "tags", "tags-any", "not-tags", "not-tags-any"})
    )

    @registry.route("GET", path, policy=Policy.READER, query=(*PARAMETERS, *filters))
    async def list_(request: ApiRequest) -> Any:
        query = query_of(request)
        if served.find is not None:
            found = await served.find(request.cloud, request.context, query)
        else:
            found = await request.cloud.store.read(find, served.resource, request.context, query)
        return page(request, served.plural, found, query)

    @registry.route("GET", f"{path}/{{id}}", policy=Policy.READER, query=("fields",))
    async def show_(request: ApiRequest) -> Any:
        document = await request.cloud.store.read(show, served.resource, request.context, request.path["id"])
        return {served.singular: reduced(request, document)}

    @registry.route("POST", path, status=201, body=_new_envelope(served))
    async def create_(request: ApiRequest, body: Any) -> Any:
        one, many = body.one, body.many
        if (one is UNSET) == (many is UNSET):
            raise BadRequest(f"The body needs either '{served.singular}' or '{_many(served)}'.")
        wanted = [fields_of(item) for item in (many if one is UNSET else [one])]
        if not wanted:
            raise BadRequest(f"{_many(served)}: the list is empty.")
        made = await served.create(request.cloud, request.context, wanted)
        return {_many(served): made} if one is UNSET else {served.singular: made[0]}

    @registry.route("DELETE", f"{path}/{{id}}", status=204)
    async def remove_(request: ApiRequest) -> None:
        await served.remove(request.cloud, request.context, request.path["id"])

    change = served.change
    if change is None:
        return

    @registry.route("PUT", f"{path}/{{id}}", body=_change_envelope(served))
    async def change_(request: ApiRequest, body: Any) -> Any:
        return {served.singular: await change(request.cloud, request.context, request.path["id"], fields_of(body.one))}


def _many(served: Served) -> str:
    return served.plural.replace("-", "_")


def _new_envelope(served: Served) -> type[Struct]:
    one: Any = served.new | UnsetType
    many: Any = list[served.new] | UnsetType  # type: ignore[name-defined]
    return msgspec.defstruct(
        f"{served.new.__name__}Request",
        [("one", one, UNSET), ("many", many, UNSET)],
        rename={"one": served.singular, "many": _many(served)},
        forbid_unknown_fields=True,
    )


def _change_envelope(served: Served) -> type[Struct]:
    assert served.changed is not None
    return msgspec.defstruct(
        f"{served.changed.__name__}Request",
        [("one", served.changed)],
        rename={"one": served.singular},
        forbid_unknown_fields=True,
    )


for _served in SERVED:
    _serve(_served)
