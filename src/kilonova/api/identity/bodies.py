"""The bodies of the identity API.

Users and projects keep attributes that nobody knows, as Keystone does: their bodies are objects of anything, from which
`split` takes the known attributes, checked, and leaves the rest.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from kilonova.errors import BadRequest

Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00]*\S[^\x00]*$")]
ProjectName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00]*\S[^\x00]*$")]
Words = Annotated[str, Meta(max_length=1024)]
Id = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")]
Password = Annotated[str, Meta(min_length=1, max_length=4096)]
Tag = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^,/]+$")]
Tags = Annotated[list[Tag], Meta(max_length=80)]

S = TypeVar("S", bound=Struct)


class UserFields(Struct, kw_only=True):
    name: Name | UnsetType = UNSET
    domain_id: Id | UnsetType | None = UNSET
    description: Words | UnsetType | None = UNSET
    email: Annotated[str, Meta(max_length=255)] | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    default_project_id: Annotated[str, Meta(max_length=36)] | UnsetType | None = UNSET
    password: Password | UnsetType | None = UNSET
    options: dict[str, Any] | UnsetType = UNSET


class ProjectFields(Struct, kw_only=True):
    name: ProjectName | UnsetType = UNSET
    domain_id: Id | UnsetType | None = UNSET
    parent_id: Id | UnsetType | None = UNSET
    is_domain: bool | UnsetType = UNSET
    description: Words | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET


def _open(fields: type[Struct], *required: str) -> Meta:
    """The schema of an object with these attributes and any others."""
    (_,), components = msgspec.json.schema_components([fields])
    properties = components[fields.__name__]["properties"]
    return Meta(extra_json_schema={"properties": properties, "required": list(required)})


class NewUser(Struct):
    user: Annotated[dict[str, Any], _open(UserFields, "name")]


class ChangedUser(Struct):
    user: Annotated[dict[str, Any], _open(UserFields)]


class NewProject(Struct):
    project: Annotated[dict[str, Any], _open(ProjectFields, "name")]


class ChangedProject(Struct):
    project: Annotated[dict[str, Any], _open(ProjectFields)]


def split(attributes: dict[str, Any], fields: type[S], noun: str) -> tuple[S, dict[str, Any]]:
    """The known attributes, checked, and the others. Raises `BadRequest` naming the attribute."""
    try:
        known = msgspec.convert(attributes, fields)
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid input: {noun}: {error}") from None
    never_stored = {"id", "links", *fields.__struct_fields__}
    return known, {key: value for key, value in attributes.items() if key not in never_stored}


def given(fields: Struct, *names: str) -> dict[str, Any]:
    """Those of the named attributes that the client gave."""
    values = {name: getattr(fields, name) for name in names}
    return {name: value for name, value in values.items() if value is not UNSET}


class PasswordChange(Struct):
    original_password: Password
    password: Password


class ChangedPassword(Struct):
    user: PasswordChange


class DomainFields(Struct, kw_only=True):
    name: Name
    description: Words | None = None
    enabled: bool = True


class NewDomain(Struct):
    domain: DomainFields


class DomainChanges(Struct, kw_only=True):
    name: Name | UnsetType = UNSET
    description: Words | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET


class ChangedDomain(Struct):
    domain: DomainChanges


class RoleFields(Struct, kw_only=True):
    name: Name
    description: Words | None = None
    domain_id: str | None = None


class NewRole(Struct):
    role: RoleFields


class RoleChanges(Struct, kw_only=True):
    name: Name | UnsetType = UNSET
    description: Words | UnsetType | None = UNSET


class ChangedRole(Struct):
    role: RoleChanges


class TagList(Struct):
    tags: Tags


class DomainReference(Struct):
    id: str | None = None
    name: str | None = None


class PasswordUser(Struct):
    password: str
    id: str | None = None
    name: str | None = None
    domain: DomainReference | None = None


class PasswordMethod(Struct):
    user: PasswordUser


class TokenMethod(Struct):
    id: str


class Identity(Struct):
    methods: list[str]
    password: PasswordMethod | None = None
    token: TokenMethod | None = None


class ProjectReference(Struct):
    id: str | None = None
    name: str | None = None
    domain: DomainReference | None = None


class SystemReference(Struct):
    all: bool


class TokenScope(Struct):
    project: ProjectReference | None = None
    domain: DomainReference | None = None
    system: SystemReference | None = None


class Auth(Struct):
    identity: Identity
    scope: TokenScope | Literal["unscoped"] | None = None


class Credentials(Struct):
    auth: Auth
