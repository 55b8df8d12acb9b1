"""Talks to a cloud's public APIs on behalf of a command, with the credentials of `OS_*` or of the state directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kilonova.errors import KilonovaError, NotFound, Unauthorized, Unavailable
from kilonova.service.credentials import password
from kilonova.service.state import default_state_dir, existing

if TYPE_CHECKING:
    import httpx

F = TypeVar("F", bound=Callable[..., Any])


def state_dir_option(command: F) -> F:
    """Adds `--state-dir` to a command."""
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=default_state_dir,
        envvar="KILONOVA_STATE_DIR",
        show_default="$KILONOVA_STATE_DIR, else /var/lib/kilonova, or ~/.local/state/kilonova without root",
        help="Where the cloud keeps its state.",
    )(command)


class Client:
    """A session with a token; service names are those of the catalog's types."""

    def __init__(self, auth_url: str, user: str, secret: str, project: str) -> None:
        import httpx

        self._http = httpx.Client(timeout=60, trust_env=False)
        self._auth_url = auth_url.rstrip("/").removesuffix("/v3") + "/v3"
        self._endpoints = self._authenticate(user, secret, project)

    @classmethod
    def from_environment(cls, state_dir: Path) -> Client:
        """`OS_AUTH_URL` and its companions when set, else the state directory's `openrc`.

        Raises `NotFound` when there is neither, `Unavailable` when nobody answers, `Unauthorized`.
        """
        if auth_url := os.environ.get("OS_AUTH_URL"):
            return cls(
                auth_url,
                os.environ.get("OS_USERNAME", "admin"),
                os.environ.get("OS_PASSWORD", ""),
                os.environ.get("OS_PROJECT_NAME", "admin"),
            )
        state = existing(state_dir)
        options = state.read_options()
        secret = password(state)
        if options is None or secret is None:
            raise NotFound(f"{state.openrc} is missing: source an openrc file, or name another --state-dir")
        return cls(f"http://{options.address}:{options.port}/identity/v3", "admin", secret, "admin")

    def _authenticate(self, user: str, secret: str, project: str) -> dict[str, str]:
        domain = {"name": os.environ.get("OS_USER_DOMAIN_NAME", "Default")}
        body = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {"user": {"name": user, "domain": domain, "password": secret}},
                },
                "scope": {"project": {"name": project, "domain": domain}},
            }
        }
        response = self._send("POST", f"{self._auth_url}/auth/tokens", body)
        self._http.headers["X-Auth-Token"] = response.headers["x-subject-token"]
        return {
            service["type"]: endpoint["url"].rstrip("/")
            for service in response.json()["token"]["catalog"]
            for endpoint in service["endpoints"]
            if endpoint["interface"] == "public"
        }

    def get(self, service: str, path: str) -> Any:
        return self.request("GET", service, path)

    def request(self, method: str, service: str, path: str, body: object = None) -> Any:
        """The decoded answer of `METHOD endpoint/path`; raises the cloud's own words as a `KilonovaError`."""
        if service not in self._endpoints:
            raise NotFound(f"this cloud has no service of type {service}")
        response = self._send(method, f"{self._endpoints[service]}{path}", body)
        return response.json() if response.content else None

    def _send(self, method: str, url: str, body: object) -> httpx.Response:
        import httpx

        try:
            response = self._http.request(method, url, json=body)
        except httpx.TransportError as error:
            raise Unavailable(f"{url}: {error}; is the cloud running? see `kilonova status`") from error
        if response.status_code == 401:
            raise Unauthorized(_words(response))
        if response.is_error:
            raise KilonovaError(_words(response))
        return response


def _words(response: httpx.Response) -> str:
    """The message of an error body in any service's format."""
    try:
        document = response.json()
    except ValueError:
        return f"{response.status_code} {response.reason_phrase}"
    inner = next((value for value in document.values() if isinstance(value, dict)), document)
    return str(inner.get("message", response.reason_phrase))
