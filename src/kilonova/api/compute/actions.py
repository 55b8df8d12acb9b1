"""`POST /servers/{id}/action`: one action per request. Source: Compute API, "Servers - run an action"."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field
from starlette.responses import Response

from kilonova.api.compute.fields import Text255
from kilonova.api.compute.registry import V21, registry
from kilonova.api.compute.servers import server_id, wake
from kilonova.api.routing import ApiRequest
from kilonova.cloud import server_actions as use
from kilonova.cloud.server_lists import get_instance
from kilonova.errors import BadRequest, Forbidden, NotSupported

MOST_LINES = 1_000_000
Nothing = object


class Reboot(Struct, forbid_unknown_fields=True):
    type: Literal["HARD", "Hard", "hard", "SOFT", "Soft", "soft"]


class Lock(Struct, forbid_unknown_fields=True):
    locked_reason: Annotated[str, Meta(min_length=1, max_length=255)] | UnsetType = UNSET


class Console(Struct, forbid_unknown_fields=True):
    length: int | str | UnsetType | None = UNSET


class Group(Struct, forbid_unknown_fields=True):
    name: Text255


class ResetState(Struct, forbid_unknown_fields=True):
    state: Literal["active", "error"]


class Action(Struct, forbid_unknown_fields=True):
    """Exactly one of these."""

    start: Nothing = field(name="os-start", default=UNSET)
    stop: Nothing = field(name="os-stop", default=UNSET)
    reboot: Reboot | UnsetType = UNSET
    pause: Nothing = UNSET
    unpause: Nothing = UNSET
    lock: Lock | UnsetType | None = UNSET
    unlock: Nothing = UNSET
    console_output: Console | UnsetType | None = field(name="os-getConsoleOutput", default=UNSET)
    add_group: Group | UnsetType = field(name="addSecurityGroup", default=UNSET)
    remove_group: Group | UnsetType = field(name="removeSecurityGroup", default=UNSET)
    reset_state: ResetState | UnsetType = field(name="os-resetState", default=UNSET)
    rebuild: Nothing = UNSET
    resize: Nothing = UNSET
    confirm_resize: Nothing = field(name="confirmResize", default=UNSET)
    revert_resize: Nothing = field(name="revertResize", default=UNSET)
    suspend: Nothing = UNSET
    resume: Nothing = UNSET
    rescue: Nothing = UNSET
    unrescue: Nothing = UNSET
    shelve: Nothing = UNSET
    shelve_offload: Nothing = field(name="shelveOffload", default=UNSET)
    unshelve: Nothing = UNSET
    create_image: Nothing = field(name="createImage", default=UNSET)
    create_backup: Nothing = field(name="createBackup", default=UNSET)
    change_password: Nothing = field(name="changePassword", default=UNSET)
    migrate: Nothing = UNSET
    live_migrate: Nothing = field(name="os-migrateLive", default=UNSET)
    evacuate: Nothing = UNSET
    force_delete: Nothing = field(name="forceDelete", default=UNSET)
    restore: Nothing = UNSET
    crash_dump: Nothing = field(name="trigger_crash_dump", default=UNSET)
    vnc_console: Nothing = field(name="os-getVNCConsole", default=UNSET)
    serial_console: Nothing = field(name="os-getSerialConsole", default=UNSET)
    spice_console: Nothing = field(name="os-getSPICEConsole", default=UNSET)
    reset_network: Nothing = field(name="resetNetwork", default=UNSET)
    inject_network_info: Nothing = field(name="injectNetworkInfo", default=UNSET)


_POWER = {"start": use.START, "stop": use.STOP, "pause": use.PAUSE, "unpause": use.UNPAUSE}


@registry.route("POST", f"{V21}/servers/{{server_id}}/action", status=202, body=Action)
async def act(request: ApiRequest, body: Action) -> Response | None:
    asked = [name for name in body.__struct_fields__ if getattr(body, name) is not UNSET]
    if len(asked) != 1:
        raise BadRequest(f"The body must name exactly one action, it names {len(asked)}")
    name, instance_id = asked[0], server_id(request)
    if name in _POWER:
        await _power(request, instance_id, _POWER[name])
    elif isinstance(body.reboot, Reboot):
        await _reboot(request, instance_id, body.reboot)
    elif isinstance(body.add_group, Group):
        hosts = await request.cloud.store.write(use.add_group, request.context, instance_id, body.add_group.name)
        await request.cloud.wake_networks(hosts, request.context)
    elif isinstance(body.remove_group, Group):
        hosts = await request.cloud.store.write(use.remove_group, request.context, instance_id, body.remove_group.name)
        await request.cloud.wake_networks(hosts, request.context)
    elif isinstance(body.reset_state, ResetState):
        if not request.context.is_admin:
            raise Forbidden("os-resetState needs the role admin")
        state = body.reset_state.state
        await request.cloud.store.write(use.reset_state, request.context, instance_id, state)
    elif name == "lock":
        await _lock(request, instance_id, body.lock)
    elif name == "unlock":
        await request.cloud.store.write(use.unlock, request.context, instance_id)
    elif name == "console_output":
        return await _console_output(request, instance_id, body.console_output)
    else:
        await request.cloud.store.read(get_instance, request.context, instance_id)
        raise NotSupported(f"The action '{_wire_name(name)}' is not supported by this cloud yet.")
    return None


def _wire_name(name: str) -> str:
    names = {info.name: info.encode_name for info in msgspec.structs.fields(Action)}
    return names[name]


async def _power(
    request: ApiRequest, instance_id: str, action: use.PowerAction, arguments: dict[str, str] | None = None
) -> None:
    pending = await request.cloud.store.write(use.begin, request.context, instance_id, action, arguments)
    await wake(request, pending)


async def _reboot(request: ApiRequest, instance_id: str, reboot: Reboot) -> None:
    kind = reboot.type.upper()
    await _power(request, instance_id, use.REBOOT_SOFT if kind == "SOFT" else use.REBOOT_HARD, {"type": kind})


async def _lock(request: ApiRequest, instance_id: str, lock: Lock | UnsetType | None) -> None:
    reason = lock.locked_reason if isinstance(lock, Lock) else UNSET
    if reason is not UNSET and request.microversion < (2, 73):
        raise BadRequest("lock: a reason needs API version 2.73")
    await request.cloud.store.write(use.lock, request.context, instance_id, reason or None)


async def _console_output(request: ApiRequest, instance_id: str, console: Console | UnsetType | None) -> Response:
    length = console.length if isinstance(console, Console) else None
    lines: int | None = None
    if length is not None and length is not UNSET:
        try:
            lines = int(length)
        except ValueError:
            raise BadRequest(f"os-getConsoleOutput: length '{length}' is not an integer") from None
        if lines < -1:
            raise BadRequest(f"os-getConsoleOutput: length {lines} is out of range, -1 means all of it")
        lines = None if lines == -1 else min(lines, MOST_LINES)
    output = await use.console_output(request.cloud, request.context, instance_id, lines)
    return Response(msgspec.json.encode({"output": output}), media_type="application/json")
