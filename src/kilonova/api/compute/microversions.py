"""Compute microversions: which are spoken, how a request names one, how the answer confirms it.

Source: Compute API, "Microversions". 2.79 is the newest whose changes are made for every route that is here.
"""

from __future__ import annotations

import re

from starlette.requests import Request as HttpRequest

from kilonova.api.routing import ApiRequest
from kilonova.errors import BadRequest, NotAcceptable, NotFound

Version = tuple[int, int]

LEAST: Version = (2, 1)
MOST: Version = (2, 79)

_FORM = re.compile(r"^([1-9]\d{0,5})\.([1-9]\d{0,5}|0)$")
_HEADERS = "OpenStack-API-Version, X-OpenStack-Nova-API-Version"


def text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def negotiate(http: HttpRequest) -> tuple[Version, dict[str, str]]:
    """The version of a request and the headers that confirm it.

    Raises `NotAcceptable` for one this cloud does not speak, `BadRequest` for one that is none.
    """
    asked = _asked(http)
    if asked is None:
        version = LEAST
    elif asked == "latest":
        version = MOST
    else:
        form = _FORM.match(asked)
        if form is None:
            raise BadRequest(f"API Version String {asked} is of invalid format. Must be of format MajorNum.MinorNum.")
        version = (int(form[1]), int(form[2]))
        if not LEAST <= version <= MOST:
            raise NotAcceptable(
                f"Version {asked} is not supported by the API. Minimum is {text(LEAST)} and maximum is {text(MOST)}."
            )
    return version, {
        "OpenStack-API-Version": f"compute {text(version)}",
        "X-OpenStack-Nova-API-Version": text(version),
        "Vary": _HEADERS,
    }


def _asked(http: HttpRequest) -> str | None:
    for line in http.headers.getlist("openstack-api-version"):
        for entry in line.split(","):
            service, _, version = entry.strip().partition(" ")
            if service.lower() == "compute" and version:
                return version.strip().lower()
    legacy = http.headers.get("x-openstack-nova-api-version")
    return legacy.strip().lower() if legacy else None


def need(request: ApiRequest, first: Version, last: Version = MOST) -> None:
    """The route exists in these versions only. Raises `NotFound`."""
    if not first <= request.microversion <= last:
        raise NotFound(
            f"{request.http.url.path} could not be found in API version {text(request.microversion)}: "
            f"it is there from {text(first)} to {text(last)}"
        )
