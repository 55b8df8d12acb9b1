"""The version documents and the list of extensions. Source: Compute API, "API Versions"."""

from __future__ import annotations

from kilonova.api.compute import microversions
from kilonova.api.compute.fields import Document
from kilonova.api.compute.registry import V21, registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.errors import NotFound


def _version(request: ApiRequest) -> Document:
    return {
        "id": "v2.1",
        "status": "CURRENT",
        "version": microversions.text(microversions.MOST),
        "min_version": microversions.text(microversions.LEAST),
        "updated": "2013-07-23T11:33:21Z",
        "links": [{"rel": "self", "href": f"{request.base_url}/compute/v2.1/"}],
    }


@registry.route("GET", "", policy=Policy.ANYONE)
async def list_versions(request: ApiRequest) -> Document:
    return {"versions": [_version(request)]}


@registry.route("GET", V21, policy=Policy.ANYONE)
async def show_version(request: ApiRequest) -> Document:
    version = _version(request)
    version["links"].append(
        {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/api-ref/compute/"}
    )
    version["media-types"] = [
        {"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}
    ]
    return {"version": version}


@registry.route("GET", f"{V21}/extensions", policy=Policy.READER)
async def list_extensions(_request: ApiRequest) -> Document:
    """Everything is part of v2.1 itself."""
    return {"extensions": []}


@registry.route("GET", f"{V21}/extensions/{{alias}}", policy=Policy.READER)
async def show_extension(request: ApiRequest) -> Document:
    raise NotFound(f"Extension {request.path['alias']} could not be found: everything is part of v2.1 itself")
