"""Version documents and the list of what this API can do."""

from __future__ import annotations

from typing import Any

from kilonova.api.network.registry import VERSION, registry
from kilonova.api.network.resources import SERVED
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.network.errors import ExtensionNotFound

EXTENSIONS = {
    "agent": "Network agents of the hosts",
    "allowed-address-pairs": "Further addresses that a port may use",
    "auto-allocated-topology": "A project's own network, made from the pool",
    "availability_zone": "Availability zones of networks and routers",
    "binding": "The host that a port is on, for administrators",
    "dns-integration": "DNS names of ports",
    "ext-gw-mode": "Routers with or without SNAT",
    "external-net": "External networks",
    "extra_dhcp_opt": "DHCP options of a port",
    "extraroute": "Static routes of routers",
    "fip-port-details": "The port of a floating IP, shown with it",
    "filter-validation": "An unknown filter is refused",
    "ip-substring-filtering": "Ports by a part of their address",
    "net-mtu": "The MTU of a network, shown",
    "net-mtu-writable": "The MTU of a network, chosen",
    "pagination": "Lists in pages",
    "port-security": "Anti-spoofing of a port, on or off",
    "project-id": "project_id besides tenant_id",
    "provider": "The segment of a network, for administrators",
    "quota_details": "What is used of a quota",
    "quotas": "Quotas of a project",
    "router": "Routers and floating IPs",
    "security-group": "Security groups",
    "security-groups-normalized-cidr": "The canonical CIDR of a rule",
    "sorting": "Lists in a chosen order",
    "standard-attr-description": "Descriptions",
    "standard-attr-revisions": "Revision numbers",
    "standard-attr-tag": "Tags",
    "standard-attr-timestamp": "Times of creation and change",
    "stateful-security-group": "Groups with or without connection tracking",
}
"""Alias -> what it is; exactly those that work."""


@registry.route("GET", "", policy=Policy.ANYONE)
async def versions(request: ApiRequest) -> Any:
    link = {"rel": "self", "href": f"{request.base_url}{registry.prefix}{VERSION}/"}
    version = {"id": "v2.0", "status": "CURRENT", "updated": "2016-01-01T00:00:00Z", "links": [link]}
    return {"versions": [version]}


@registry.route("GET", VERSION, policy=Policy.ANYONE)
async def version(request: ApiRequest) -> Any:
    base = f"{request.base_url}{registry.prefix}{VERSION}"
    return {
        "resources": [
            {
                "name": served.singular,
                "collection": served.plural.replace("-", "_"),
                "links": [{"rel": "self", "href": f"{base}/{served.plural}"}],
            }
            for served in SERVED
        ]
    }


@registry.route("GET", f"{VERSION}/extensions", policy=Policy.ANYONE)
async def extensions(request: ApiRequest) -> Any:
    return {"extensions": [_extension(alias) for alias in EXTENSIONS]}


@registry.route("GET", f"{VERSION}/extensions/{{alias}}", policy=Policy.ANYONE)
async def extension(request: ApiRequest) -> Any:
    alias = request.path["alias"]
    if alias not in EXTENSIONS:
        raise ExtensionNotFound(f"Extension with alias {alias} does not exist")
    return {"extension": _extension(alias)}


def _extension(alias: str) -> dict[str, Any]:
    words = EXTENSIONS[alias]
    updated = "2016-01-01T00:00:00-00:00"
    return {"alias": alias, "name": words, "description": words, "updated": updated, "links": []}
