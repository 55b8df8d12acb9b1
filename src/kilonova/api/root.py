"""The document at `/`: which services are here. Everything that no API serves ends here as well, as a 404."""

from __future__ import annotations

from typing import Any

from kilonova import __version__
from kilonova.api import dialects
from kilonova.api.routing import ApiRequest, Registry
from kilonova.auth.policy import Policy

registry = Registry("root", "", dialects.identity)


@registry.route("GET", "/", policy=Policy.ANYONE)
async def services(request: ApiRequest) -> dict[str, Any]:
    """List the services of this cloud."""
    return {
        "kilonova": __version__,
        "services": [
            {"type": service.type, "name": service.name, "url": request.config.api.url + service.path}
            for service in request.auth.services
        ],
    }
