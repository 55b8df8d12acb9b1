"""The service catalog: which APIs this cloud serves and where, made from the configuration and never stored.

Ids are derived from what they name, so that they stay the same over restarts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from kilonova.config import ApiConfig

INTERFACES = ("public", "internal", "admin")


@dataclass(frozen=True)
class Service:
    type: str
    name: str
    description: str
    path: str
    """Below the API's URL; `%(project_id)s` stands for the token's project."""

    @property
    def id(self) -> str:
        return _stable_id("service", self.type)

    @property
    def needs_project(self) -> bool:
        return "%(project_id)s" in self.path


@dataclass(frozen=True)
class Endpoint:
    service: Service
    interface: str
    region: str
    url: str

    @property
    def id(self) -> str:
        return _stable_id("endpoint", self.service.type, self.interface, self.region)


IDENTITY = Service("identity", "keystone", "Users, projects, tokens", "/identity/v3")
COMPUTE = Service("compute", "nova", "Servers", "/compute/v2.1")
NETWORK = Service("network", "neutron", "Networks", "/network")
IMAGE = Service("image", "glance", "Images", "/image")
OBJECT_STORE = Service("object-store", "swift", "Objects", "/object-store/v1/AUTH_%(project_id)s")

SERVED = (IDENTITY, COMPUTE, NETWORK, IMAGE, OBJECT_STORE)


def endpoints(api: ApiConfig, served: Sequence[Service]) -> list[Endpoint]:
    """The endpoints of the services, with `%(project_id)s` left as it is."""
    return [
        Endpoint(service, interface, api.region, api.url + service.path)
        for service in served
        for interface in INTERFACES
    ]


def catalog(api: ApiConfig, served: Sequence[Service], project_id: str | None) -> list[dict[str, object]]:
    """The catalog as a token carries it; services of a project are left out when there is none."""
    found: list[dict[str, object]] = []
    everything = endpoints(api, served)
    for service in served:
        if service.needs_project and project_id is None:
            continue
        found.append(
            {
                "id": service.id,
                "type": service.type,
                "name": service.name,
                "endpoints": [
                    {
                        "id": endpoint.id,
                        "interface": endpoint.interface,
                        "region": endpoint.region,
                        "region_id": endpoint.region,
                        "url": endpoint.url.replace("%(project_id)s", project_id or ""),
                    }
                    for endpoint in everything
                    if endpoint.service == service
                ],
            }
        )
    return found


def _stable_id(*words: str) -> str:
    return hashlib.sha256("/".join(words).encode()).hexdigest()[:32]
