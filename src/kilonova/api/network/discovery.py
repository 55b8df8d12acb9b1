"""Version documents and the list of what this API can do."""

from __future__ import annotations

from typing import Any

from kilonova.api.network.registry import VERSION, registry
from kilonova.api.network.resources import SERVED
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.network.errors import ExtensionNotFound

EXTENSIONS = {
    "agent": "agent",
    "allowed-address-pairs": "Allowed Address Pairs",
    "auto-allocated-topology": "Auto Allocated Topology Services",
    "availability_zone": "Availability Zone",
    "binding": "Port Binding",
    "dns-integration": "DNS Integration",
    "ext-gw-mode": "Neutron L3 Configurable external gateway mode",
    "external-net": "Neutron external network",
    "extra_dhcp_opt": "Neutron Extra DHCP options",
    "extraroute": "Neutron Extra Route",
    "fip-port-details": "Floating IP Port Details Extension",
    "filter-validation": "Filter parameters validation",
    "ip-substring-filtering": "IP address substring filtering",
    "net-mtu": "Network MTU",
    "net-mtu-writable": "Network MTU (writable)",
    "network-ip-availability": "Network IP Availability",
    "pagination": "Pagination support",
    "port-security": "Port Security",
    "project-id": "project_id field enabled",
    "provider": "Provider Network",
    "quota-check-limit": "Quota engine limit check",
    "quota_details": "Quota details management support",
    "quotas": "Quota management support",
    "router": "Neutron L3 Router",
    "security-group": "security-group",
    "security-groups-normalized-cidr": "Normalized CIDR field for security group rules",
    "sorting": "Sorting support",
    "standard-attr-description": "standard-attr-description",
    "standard-attr-revisions": "Resource revision numbers",
    "standard-attr-tag": "Tag support for resources with standard attribute",
    "standard-attr-timestamp": "Resource timestamps",
    "stateful-security-group": "Stateful security group",
}
"""Alias -> the name that clients look for; exactly those that work."""


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
