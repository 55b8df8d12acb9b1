"""Key pairs. Source: Compute API, "Keypairs"."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from sqlalchemy import Connection, RowMapping
from starlette.responses import Response

from kilonova.api.compute.fields import Document, Name, iso_micro, next_link, only_from, only_known, page
from kilonova.api.compute.registry import V21, registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import keypairs as use
from kilonova.cloud.limits import check_keypairs
from kilonova.errors import BadRequest, Forbidden

_QUERY = ("user_id", "limit", "marker")


class KeypairBody(Struct, forbid_unknown_fields=True):
    name: Name
    public_key: Annotated[str, Meta(max_length=16384)] | UnsetType = UNSET
    type: Literal["ssh", "x509"] | UnsetType = UNSET
    user_id: Name | UnsetType = UNSET


class CreateKeypair(Struct, forbid_unknown_fields=True):
    keypair: KeypairBody


def _owner(request: ApiRequest, asked: str | None) -> str:
    """Whose key pairs: the caller's; from 2.10 an administrator may name another user."""
    own = request.context.user_id
    assert own is not None
    if not asked or request.microversion < (2, 10) or asked == own:
        return own
    if not request.context.is_admin:
        raise Forbidden("Only an administrator may see or change the key pairs of another user.")
    return asked


def _view(request: ApiRequest, row: RowMapping) -> Document:
    shown: Document = {"name": row["name"], "public_key": row["public_key"], "fingerprint": row["fingerprint"]}
    if request.microversion >= (2, 2):
        shown["type"] = row["type"]
    return shown


@registry.route("GET", f"{V21}/os-keypairs", policy=Policy.READER, query=_QUERY)
async def list_all(request: ApiRequest) -> Document:
    only_known(request, _QUERY)
    wanted = page(request)
    paged = request.microversion >= (2, 35)
    rows = await request.cloud.store.read(
        use.list_keypairs,
        _owner(request, request.query("user_id")),
        limit=wanted.limit if paged else None,
        marker=wanted.marker if paged else None,
    )
    document: Document = {"keypairs": [{"keypair": _view(request, row)} for row in rows]}
    if paged and (following := next_link(request, wanted, [row["name"] for row in rows])):
        document["keypairs_links"] = following
    return document


@registry.route("POST", f"{V21}/os-keypairs", body=CreateKeypair)
async def create(request: ApiRequest, body: CreateKeypair) -> Response:
    keypair = body.keypair
    only_from(request, keypair, {"type": (2, 2), "user_id": (2, 10)})
    if not re.fullmatch(r"[a-zA-Z0-9\-_ ]+", keypair.name) or keypair.name != keypair.name.strip():
        raise BadRequest(
            f"Keypair data is invalid: Keypair name contains unsafe characters: {keypair.name!r}. "
            "Use letters, digits, '-', '_' and spaces inside."
        )
    key_type = keypair.type or "ssh"
    owner = _owner(request, keypair.user_id or None)
    if keypair.public_key is not UNSET:
        key = use.imported(keypair.public_key, key_type)
    elif key_type == "x509":
        raise BadRequest("Keypair data is invalid: X.509 certificates are only imported: give public_key")
    else:
        key = use.generate("Generated-by-Kilonova")

    def unit(tx: Connection) -> RowMapping:
        check_keypairs(tx, request.context.project_id or "", owner)
        return use.create_keypair(tx, owner, keypair.name, key_type, key)

    row = await request.cloud.store.write(unit)
    shown = _view(request, row) | {"user_id": row["user_id"]}
    if key.private_key is not None:
        shown["private_key"] = key.private_key
    status = 201 if request.microversion >= (2, 2) else 200
    return Response(msgspec.json.encode({"keypair": shown}), status, media_type="application/json")


@registry.route("GET", f"{V21}/os-keypairs/{{name}}", policy=Policy.READER, query=("user_id",))
async def show(request: ApiRequest) -> Document:
    owner = _owner(request, request.query("user_id"))
    row = await request.cloud.store.read(use.get_keypair, owner, request.path["name"])
    shown = _view(request, row) | {
        "user_id": row["user_id"],
        "id": int.from_bytes(row["fingerprint"].encode()[:3]),
        "created_at": iso_micro(row["created_at"]),
        "updated_at": None,
        "deleted": False,
        "deleted_at": None,
    }
    return {"keypair": shown}


@registry.route("DELETE", f"{V21}/os-keypairs/{{name}}", query=("user_id",))
async def delete(request: ApiRequest) -> Response:
    owner = _owner(request, request.query("user_id"))
    await request.cloud.store.write(use.delete_keypair, owner, request.path["name"])
    return Response(status_code=204 if request.microversion >= (2, 2) else 202)
