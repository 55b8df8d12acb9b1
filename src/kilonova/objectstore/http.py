"""The object store's HTTP face: `/object-store/v1/{account}/{container}/{object}` as an ASGI application of its own.

It parses requests, decides who may see an account, and renders; the store of objects is `component`. Tokens are checked
by a callable that the assembly passes in. Reference: OpenStack's "Object Storage API" (v1).
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import BinaryIO
from urllib.parse import quote, unquote_to_bytes

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from kilonova import log as logs
from kilonova.context import Context
from kilonova.errors import (
    BadRequest,
    Forbidden,
    InternalError,
    KilonovaError,
    LengthRequired,
    MethodNotAllowed,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    Unauthorized,
    Unprocessable,
)
from kilonova.ids import RequestId, new_request_id
from kilonova.objectstore.component import ObjectStore, Upload
from kilonova.objectstore.rows import ContainerRow, Listing, ObjectRow, Prefix

log = logging.getLogger(__name__)

Authenticate = Callable[[str, RequestId], Context]
"""The caller that a token stands for: (token, request id) -> context. Raises `Unauthorized`."""

INTERNAL_ACCOUNT = ".kilonova"
"""Where the cloud itself keeps bytes (images); only its own services see it."""

LISTING_LIMIT = 10000
MOST_NAME_BYTES = {"account": 64, "container": 256, "object": 1024}
MOST_METADATA = 90
MOST_METADATA_BYTES = 4096


@dataclass(frozen=True)
class Target:
    """What a path names: an account, a container or an object."""

    account: str
    container: str = ""
    object: str = ""

    @property
    def kind(self) -> str:
        return "object" if self.object else "container" if self.container else "account"


class ObjectStoreApplication:
    """The ASGI application. `prefix` is where the assembly mounts it."""

    def __init__(self, objects: ObjectStore, authenticate: Authenticate, *, prefix: str = "/object-store") -> None:
        self._objects = objects
        self._authenticate = authenticate
        self._prefix = prefix
        self._handlers: dict[tuple[str, str], Callable[[Request, Target], Awaitable[Response]]] = {
            ("account", "GET"): self._get_account,
            ("account", "HEAD"): self._get_account,
            ("container", "GET"): self._get_container,
            ("container", "HEAD"): self._get_container,
            ("container", "PUT"): self._put_container,
            ("container", "POST"): self._post_container,
            ("container", "DELETE"): self._delete_container,
            ("object", "GET"): self._get_object,
            ("object", "HEAD"): self._get_object,
            ("object", "PUT"): self._put_object,
            ("object", "POST"): self._post_object,
            ("object", "DELETE"): self._delete_object,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            response = await self._answer(Request(scope, receive))
            await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        request_id = new_request_id()
        logs.request_id.set(request_id)
        began = time.perf_counter()
        try:
            response = await self._dispatch(request, request_id)
        except KilonovaError as error:
            response = _error(error)
            if error.status >= 500:
                log.warning("%s %s: %s", request.method, request.url.path, error)
        except ClientDisconnect:
            response = _error(BadRequest("the client closed the connection before the body ended"))
        except Exception:
            log.exception("%s %s failed", request.method, request.url.path)
            response = _error(InternalError(f"The server failed; its log has the cause under {request_id}."))
        response.headers["X-Trans-Id"] = request_id
        response.headers["X-Openstack-Request-Id"] = request_id
        took_ms = (time.perf_counter() - began) * 1000
        log.info("%s %s %d %.1f ms", request.method, request.url.path, response.status_code, took_ms)
        return response

    async def _dispatch(self, request: Request, request_id: RequestId) -> Response:
        path = _raw_path(request.scope).removeprefix(self._prefix)
        if path.rstrip("/") == "/info" and request.method in {"GET", "HEAD"}:
            return _json(_INFO)
        if not path.startswith("/v1/"):
            raise NotFound(f"{request.url.path} could not be found: paths begin with {self._prefix}/v1/ACCOUNT")
        target = _target(path.removeprefix("/v1/"))
        token = request.headers.get("x-auth-token")
        if not token:
            raise Unauthorized("The request needs a token: send X-Auth-Token")
        context = self._authenticate(token, request_id)
        _authorise(context, target, writes=request.method not in {"GET", "HEAD"})
        handler = self._handlers.get((target.kind, request.method))
        if handler is None:
            raise MethodNotAllowed(f"{request.method} is not allowed on an {target.kind}")
        return await handler(request, target)

    # -------------------------------------------------------------------------------------------- account
    async def _get_account(self, request: Request, target: Target) -> Response:
        held, count, used = await self._objects.account_totals(target.account)
        headers = {
            "X-Account-Container-Count": str(held),
            "X-Account-Object-Count": str(count),
            "X-Account-Bytes-Used": str(used),
        }
        if request.method == "HEAD":
            return Response(status_code=204, headers=headers)
        found = await self._objects.list_containers(target.account, _listing(request))
        names = [row.name for row in found]
        return _listed(request, names, [_container_entry(row) for row in found], headers)

    # -------------------------------------------------------------------------------------------- container
    async def _get_container(self, request: Request, target: Target) -> Response:
        row = await self._objects.show_container(target.account, target.container)
        headers = {
            "X-Container-Object-Count": str(row.objects),
            "X-Container-Bytes-Used": str(row.bytes_used),
            "X-Timestamp": f"{row.created_at.timestamp():.5f}",
            **{f"X-Container-Meta-{key}": value for key, value in row.metadata.items()},
        }
        if request.method == "HEAD":
            return Response(status_code=204, headers=headers)
        found = await self._objects.list_objects(target.account, target.container, _listing(request))
        return _listed(request, [entry.name for entry in found], [_object_entry(entry) for entry in found], headers)

    async def _put_container(self, request: Request, target: Target) -> Response:
        created = await self._objects.put_container(
            target.account, target.container, _metadata_changes(request, "container")
        )
        return Response(status_code=201 if created else 202)

    async def _post_container(self, request: Request, target: Target) -> Response:
        await self._objects.post_container(target.account, target.container, _metadata_changes(request, "container"))
        return Response(status_code=204)

    async def _delete_container(self, _request: Request, target: Target) -> Response:
        await self._objects.delete_container(target.account, target.container)
        return Response(status_code=204)

    # -------------------------------------------------------------------------------------------- object
    async def _put_object(self, request: Request, target: Target) -> Response:
        chunked = "chunked" in request.headers.get("transfer-encoding", "").lower()
        length = _content_length(request)
        if length is None and not chunked:
            raise LengthRequired("send Content-Length or Transfer-Encoding: chunked")
        only_new = request.headers.get("if-none-match", "").strip()
        if only_new not in {"", "*"}:
            raise BadRequest("If-None-Match: only '*' is possible when an object is put")
        upload = Upload(
            content_type=request.headers.get("content-type", "application/octet-stream")[:255],
            metadata={key: value for key, value in _metadata_changes(request, "object").items() if value is not None},
            etag=request.headers.get("etag", "").strip('"'),
            length=length,
            only_new=only_new == "*",
            with_sha512="sha-512" in request.headers.get("want-repr-digest", ""),
        )
        async with aclosing(_body(request)) as parts:
            row, blob = await self._objects.put_object(target.account, target.container, target.object, parts, upload)
        headers = {
            "ETag": row.etag,
            "Last-Modified": _http_date(row.updated_at),
            "X-Object-Size": str(row.size_bytes),
        }
        if blob.sha512:
            digest = base64.b64encode(bytes.fromhex(blob.sha512)).decode()
            headers["Repr-Digest"] = f"sha-512=:{digest}:"
        return Response(status_code=201, headers=headers)

    async def _get_object(self, request: Request, target: Target) -> Response:
        if request.method == "HEAD":
            row = await self._objects.show_object(target.account, target.container, target.object)
            refused = _not_modified(request, row)
            return refused or Response(headers={**_object_headers(row), "Content-Length": str(row.size_bytes)})
        row, file = await self._objects.open_object(target.account, target.container, target.object)
        try:
            refused = _not_modified(request, row)
            span = None if refused else _range(request, row)
        except BaseException:
            file.close()
            raise
        if refused is not None:
            file.close()
            return refused
        first, length = span or (0, row.size_bytes)
        headers = {**_object_headers(row), "Content-Length": str(length)}
        if span is not None:
            headers["Content-Range"] = f"bytes {first}-{first + length - 1}/{row.size_bytes}"
        return _FileResponse(self._objects, file, first, length, 206 if span else 200, headers)

    async def _post_object(self, request: Request, target: Target) -> Response:
        metadata = {key: value for key, value in _metadata_changes(request, "object").items() if value is not None}
        content_type = request.headers.get("content-type")
        if content_type in {"", "application/x-www-form-urlencoded"}:
            content_type = None
        await self._objects.post_object(target.account, target.container, target.object, metadata, content_type)
        return Response(status_code=202)

    async def _delete_object(self, _request: Request, target: Target) -> Response:
        await self._objects.delete_object(target.account, target.container, target.object)
        return Response(status_code=204)


class _FileResponse(StreamingResponse):
    """Streams a part of an open blob and closes it, also when the client goes away."""

    def __init__(
        self, objects: ObjectStore, file: BinaryIO, first: int, length: int, status: int, headers: dict[str, str]
    ) -> None:
        self._file = file
        super().__init__(objects.read(file, first, length), status, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()


# ------------------------------------------------------------------------------------------------ who and what
def _authorise(context: Context, target: Target, *, writes: bool) -> None:
    """An account is its project's; the internal one is the cloud's own services'."""
    if target.account == INTERNAL_ACCOUNT:
        allowed = bool(context.roles & {"service", "admin"})
    else:
        allowed = context.project_id is not None and target.account == f"AUTH_{context.project_id}"
        allowed = allowed and (not writes or not context.is_reader_only) and bool(context.roles)
    if not allowed:
        raise Forbidden(f"account {target.account} is not yours: use a token of its project with the role member")


def _raw_path(scope: Scope) -> str:
    """The path as the client encoded it, so that an encoded slash stays within its name."""
    raw = scope.get("raw_path")
    if raw is None:
        return quote(str(scope["path"]))
    return bytes(raw).split(b"?", 1)[0].decode("ascii", errors="replace")


def _target(path: str) -> Target:
    """ACCOUNT[/CONTAINER[/OBJECT]]. Raises `PreconditionFailed` for a name that cannot be one."""
    parts = path.split("/", 2)
    names = []
    for part, kind in zip(parts, MOST_NAME_BYTES, strict=False):
        raw = unquote_to_bytes(part)
        if len(raw) > MOST_NAME_BYTES[kind]:
            if kind == "account":
                raise NotFound(f"account {part[:80]} could not be found")
            raise BadRequest(f"{kind}: a name has at most {MOST_NAME_BYTES[kind]} bytes")
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise PreconditionFailed(f"{kind}: the name is not UTF-8") from None
        if "\x00" in name or (kind != "object" and "/" in name):
            raise PreconditionFailed(f"{kind}: the name has a character that is not allowed")
        names.append(name)
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        raise NotFound("the path names no account")
    return Target(*names)


def _content_length(request: Request) -> int | None:
    value = request.headers.get("content-length")
    if value is None:
        return None
    if not value.isdecimal():
        raise BadRequest(f"Content-Length: '{value[:40]}' is not a number")
    return int(value)


def _metadata_changes(request: Request, kind: str) -> dict[str, str | None]:
    """The `X-<Kind>-Meta-*` headers; an empty value or `X-Remove-...` removes a key."""
    changes: dict[str, str | None] = {}
    keep, remove = f"x-{kind}-meta-", f"x-remove-{kind}-meta-"
    for header, value in request.headers.items():
        if header.startswith(keep):
            changes[header.removeprefix(keep).title()] = value or None
        elif header.startswith(remove):
            changes[header.removeprefix(remove).title()] = None
    size = sum(len(key) + len(value or "") for key, value in changes.items())
    if len(changes) > MOST_METADATA or size > MOST_METADATA_BYTES:
        raise BadRequest(f"metadata: at most {MOST_METADATA} items of {MOST_METADATA_BYTES} bytes in all")
    return changes


async def _body(request: Request) -> AsyncGenerator[bytes, None]:
    async for part in request.stream():
        if part:
            yield part


# ------------------------------------------------------------------------------------------------ listings
def _listing(request: Request) -> Listing:
    query = request.query_params
    limit = query.get("limit") or str(LISTING_LIMIT)
    if not limit.isdecimal() or len(limit) > 9 or int(limit) > LISTING_LIMIT:
        raise PreconditionFailed(f"limit: '{limit[:40]}' is not a number up to {LISTING_LIMIT}")
    values = {name: query.get(name, "") for name in ("marker", "end_marker", "prefix", "delimiter")}
    if any("\x00" in value for value in values.values()):
        raise PreconditionFailed("a NUL character is not allowed in a listing")
    return Listing(limit=int(limit), reverse=query.get("reverse", "").lower() in {"true", "1", "yes", "on"}, **values)


def _listed(request: Request, names: list[str], entries: list[dict[str, object]], headers: dict[str, str]) -> Response:
    """As JSON when asked for by `format` or `Accept`, else one name a line."""
    wanted = request.query_params.get("format") or ""
    if wanted == "json" or (not wanted and "json" in request.headers.get("accept", "")):
        return _json(entries, headers)
    if not names:
        return Response(status_code=204, headers=headers, media_type="text/plain")
    return Response("".join(f"{name}\n" for name in names), headers=headers, media_type="text/plain")


def _container_entry(row: ContainerRow) -> dict[str, object]:
    return {
        "name": row.name,
        "count": row.objects,
        "bytes": row.bytes_used,
        "last_modified": _iso(row.created_at),
    }


def _object_entry(entry: ObjectRow | Prefix) -> dict[str, object]:
    if isinstance(entry, Prefix):
        return {"subdir": entry.name}
    return {
        "name": entry.name,
        "bytes": entry.size_bytes,
        "hash": entry.etag,
        "content_type": entry.content_type,
        "last_modified": _iso(entry.updated_at),
    }


# ------------------------------------------------------------------------------------------------ conditions, ranges
def _object_headers(row: ObjectRow) -> dict[str, str]:
    return {
        "Content-Type": row.content_type,
        "ETag": row.etag,
        "Last-Modified": _http_date(row.updated_at),
        "X-Timestamp": f"{row.updated_at.timestamp():.5f}",
        "Accept-Ranges": "bytes",
        **{f"X-Object-Meta-{key}": value for key, value in row.metadata.items()},
    }


def _not_modified(request: Request, row: ObjectRow) -> Response | None:
    """The 304 of a conditional request, if it is one. Raises `PreconditionFailed` (RFC 9110, section 13)."""
    wanted, unwanted = request.headers.get("if-match"), request.headers.get("if-none-match")
    changed_at = row.updated_at.replace(microsecond=0)
    if wanted is not None:
        if not _matches(wanted, row.etag):
            raise PreconditionFailed(f"object {row.name} has the ETag {row.etag}")
    elif (since := _date(request, "if-unmodified-since")) is not None and changed_at > since:
        raise PreconditionFailed(f"object {row.name} was changed at {_http_date(row.updated_at)}")
    if unwanted is not None:
        same = _matches(unwanted, row.etag)
    else:
        since = _date(request, "if-modified-since")
        same = since is not None and changed_at <= since
    if not same:
        return None
    return Response(status_code=304, headers={"ETag": row.etag, "Last-Modified": _http_date(row.updated_at)})


def _matches(header: str, etag: str) -> bool:
    return any(tag.strip().removeprefix("W/").strip('"') in {etag, "*"} for tag in header.split(","))


def _date(request: Request, header: str) -> datetime | None:
    """A date of a header; one that is not a date does not count."""
    try:
        found = parsedate_to_datetime(request.headers[header])
    except (KeyError, ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _range(request: Request, row: ObjectRow) -> tuple[int, int] | None:
    """(first byte, length) of a Range header; none means everything (no range, several, or not understood)."""
    value = request.headers.get("range", "").strip()
    unit, _, spec = value.partition("=")
    begin, dash, end = spec.partition("-")
    begin, end = begin.strip(), end.strip()
    if unit.strip() != "bytes" or not dash or not (begin or end):
        return None
    if any(number and (not number.isdecimal() or len(number) > 18) for number in (begin, end)):
        return None
    size = row.size_bytes
    if not begin:
        first, last = max(size - int(end), 0), size - 1
    else:
        first, last = int(begin), min(int(end), size - 1) if end else size - 1
        if end and int(end) < first:
            return None
    if first > last:
        raise RangeNotSatisfiable(f"the object has {size} bytes; {value} lies outside")
    return first, last - first + 1


# ------------------------------------------------------------------------------------------------ rendering
def _error(error: KilonovaError) -> Response:
    headers = {"WWW-Authenticate": "Keystone uri=/identity/v3"} if error.status == 401 else {}
    if isinstance(error, Unprocessable):
        headers["Connection"] = "close"
    return Response(error.message + "\n", error.status, headers, media_type="text/plain")


def _json(document: object, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(document), 200, headers, media_type="application/json")


def _http_date(moment: datetime) -> str:
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


_INFO = {
    "swift": {
        "version": "kilonova",
        "container_listing_limit": LISTING_LIMIT,
        "account_listing_limit": LISTING_LIMIT,
        "max_container_name_length": MOST_NAME_BYTES["container"],
        "max_object_name_length": MOST_NAME_BYTES["object"],
        "max_meta_count": MOST_METADATA,
        "max_meta_overall_size": MOST_METADATA_BYTES,
        "max_file_size": 2**63 - 1,
    },
    "slo": {"max_manifest_segments": 0},  # not served; openstacksdk stumbles over an answer without the section
}


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
