"""An error in each service's own format."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from starlette.responses import Response

from kilonova.errors import KilonovaError, QuotaExceeded

_COMPUTE_KEYS = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    501: "notImplemented",
    503: "serviceUnavailable",
}

_NETWORK_TYPES = {
    "QuotaExceeded": "OverQuota",
    "NoMoreAddresses": "IpAddressGenerationFailure",
    "NoMoreNetworks": "NoNetworkAvailable",
    "BadRequest": "HTTPBadRequest",
}


def _json(document: object, status: int, request_id: str) -> Response:
    headers = {"x-openstack-request-id": request_id}
    if status == 401:
        headers["WWW-Authenticate"] = "Keystone uri=/identity/v3"
    return Response(msgspec.json.encode(document), status, headers, media_type="application/json")


def compute(error: KilonovaError, request_id: str) -> Response:
    """Nova: `{"itemNotFound": {"code": 404, "message": ...}}`."""
    key = _COMPUTE_KEYS.get(error.status, "computeFault")
    return _json({key: {"code": error.status, "message": error.message}}, error.status, request_id)


def network(error: KilonovaError, request_id: str) -> Response:
    """Neutron: `{"NeutronError": {"type": ..., "message": ..., "detail": ""}}`."""
    status = 409 if isinstance(error, QuotaExceeded) else error.status
    kind = _NETWORK_TYPES.get(error.kind, error.kind)
    return _json({"NeutronError": {"type": kind, "message": error.message, "detail": ""}}, status, request_id)


def identity(error: KilonovaError, request_id: str) -> Response:
    """Keystone: `{"error": {"code": 404, "message": ..., "title": "Not Found"}}`."""
    title = HTTPStatus(error.status).phrase
    return _json({"error": {"code": error.status, "message": error.message, "title": title}}, error.status, request_id)


def image(error: KilonovaError, request_id: str) -> Response:
    """Glance answers HTML or text; clients read JSON with a message as well, which is what a person can read too."""
    status = 413 if isinstance(error, QuotaExceeded) else error.status
    title = HTTPStatus(status).phrase
    return _json({"code": status, "title": title, "message": error.message}, status, request_id)
