"""The files that a person copies lines from: `openrc` for shells, `clouds.yaml` for openstacksdk and its users."""

from __future__ import annotations

import shlex

from kilonova.config import ApiConfig
from kilonova.service.state import StateDirectory, write_private

CLOUD_NAME = "kilonova"


def write(state: StateDirectory, api: ApiConfig, password: str) -> None:
    """Write both, readable by their owner only."""
    variables = {
        "OS_AUTH_TYPE": "password",
        "OS_AUTH_URL": f"{api.url}/identity/v3",
        "OS_USERNAME": "admin",
        "OS_PASSWORD": password,
        "OS_PROJECT_NAME": "admin",
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
        "OS_REGION_NAME": api.region,
        "OS_IDENTITY_API_VERSION": "3",
    }
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    write_private(state.openrc, "".join(lines).encode())
    write_private(state.clouds_yaml, _clouds_yaml(api, password).encode())


def _clouds_yaml(api: ApiConfig, password: str) -> str:
    quoted = password.replace("'", "''")
    return f"""clouds:
  {CLOUD_NAME}:
    auth_type: password
    auth:
      auth_url: {api.url}/identity/v3
      username: admin
      password: '{quoted}'
      project_name: admin
      user_domain_name: Default
      project_domain_name: Default
    region_name: {api.region}
    identity_api_version: 3
"""


def password(state: StateDirectory) -> str | None:
    """The administrator's password as `openrc` has it; none when there is no such file."""
    if not state.openrc.exists():
        return None
    for line in state.openrc.read_text().splitlines():
        words = shlex.split(line)
        if len(words) == 2 and words[1].startswith("OS_PASSWORD="):
            return words[1].removeprefix("OS_PASSWORD=")
    return None
