"""`kilonova up|down|status|service`: the life of a cloud on this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from ipaddress import IPv4Interface
from pathlib import Path

import click

from kilonova.cli.client import state_dir_option
from kilonova.cli.main import example
from kilonova.cli.output import json_option, show_json, show_record, show_table
from kilonova.errors import BadRequest, KilonovaError
from kilonova.service import credentials
from kilonova.service.daemon import detach as fork_away
from kilonova.service.daemon import report
from kilonova.service.state import Options, StateDirectory, existing

_READY_WITHIN_S = 60.0


def _address(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    address, _, port = value.rpartition(":")
    if not address or not port.isdigit() or not 0 < int(port) < 65536:
        raise click.BadParameter(f"'{value}' is not ADDR:PORT, such as 127.0.0.1:8770")
    return address.strip("[]"), int(port)


def _pairs(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for value in values:
        name, separator, device = value.partition("=")
        if not separator or not name or not device:
            raise click.BadParameter(f"'{value}' is not PHYSICAL_NETWORK=DEVICE, such as physnet1=eth1")
        pairs[name] = device
    return pairs


def _types(_context: click.Context, _parameter: click.Parameter, value: str | None) -> list[str]:
    names = [] if value is None else [name.strip() for name in value.split(",")]
    if len(set(names)) != len(names) or not set(names) <= {"flat", "flat-dhcp", "vlan", "vxlan"}:
        raise click.BadParameter(f"'{value}' is not a list of different ones of vlan, vxlan, flat-dhcp, flat")
    return names


@click.command(short_help="Start a cloud, or resume one.", epilog=example("sudo kilonova up --sandbox --detach"))
@click.option(
    "--sandbox",
    "mode",
    flag_value="sandbox",
    help="A closed little world in namespaces, with a pool of networks and floating addresses.",
)
@click.option(
    "--simulate", "mode", flag_value="simulate", help="The control plane alone: no root, no kernel, no guests."
)
@click.option(
    "--driver",
    type=click.Choice(["qemu", "namespace", "fake"]),
    help="What guests are. Default: qemu; with --simulate: fake.",
)
@state_dir_option
@click.option(
    "--listen",
    callback=_address,
    envvar="KILONOVA_LISTEN",
    metavar="ADDR:PORT",
    help="Where all APIs answer. Default: $KILONOVA_LISTEN, else 127.0.0.1:8770.",
)
@click.option(
    "--admin-password",
    envvar="KILONOVA_ADMIN_PASSWORD",
    help="Password of the user admin. Default: made at the first start, kept in `openrc`.",
)
@click.option("--host-name", help="This host's name in the cloud. Default: host1.")
@click.option(
    "--acceleration",
    type=click.Choice(["auto", "kvm", "tcg"]),
    help="How QEMU runs guests. Default: auto, KVM where a probe proves it.",
)
@click.option(
    "--trunk",
    callback=_pairs,
    multiple=True,
    metavar="PHYSNET=DEVICE",
    help="The NIC that carries the VLANs of a physical network; may be repeated.",
)
@click.option(
    "--public-interface",
    metavar="DEVICE",
    help="The NIC that joins routers and floating addresses to the network outside; the machine itself loses it.",
)
@click.option(
    "--flat",
    callback=_pairs,
    multiple=True,
    metavar="PHYSNET=BRIDGE",
    help="Your bridge in the switch namespace for flat networks; may be repeated.",
)
@click.option(
    "--tunnel",
    callback=_pairs,
    multiple=True,
    metavar="DEVICE=ADDRESS/LENGTH",
    help="The NIC, and this host's address on it, that carries VXLAN to other hosts.",
)
@click.option(
    "--network-types",
    callback=_types,
    metavar="TYPE,...",
    help="Which types projects' networks are of, the best first; others only on request. "
    "Default: vlan,vxlan,flat-dhcp,flat.",
)
@click.option(
    "--detach", is_flag=True, help="Go to the background once ready; else stay until Ctrl-C or `kilonova down`."
)
@json_option
def up(
    mode: str | None,
    driver: str | None,
    state_dir: Path,
    listen: tuple[str, int] | None,
    admin_password: str | None,
    host_name: str | None,
    acceleration: str | None,
    trunk: dict[str, str],
    public_interface: str | None,
    flat: dict[str, str],
    tunnel: dict[str, str],
    network_types: list[str],
    detach: bool,
    as_json: bool,
) -> None:
    """Start the whole cloud in one process, or resume the one in the state directory.

    A state directory remembers its options. Guests that ran while the process was away still run; after `down` or a
    reboot they are started again as their users left them.
    """
    state = StateDirectory(state_dir.absolute())
    options = _options(
        state,
        mode,
        driver,
        listen,
        host_name,
        acceleration,
        trunk,
        public_interface,
        flat,
        tunnel,
        network_types,
    )
    if options.mode != "simulate" and os.geteuid() != 0:
        raise BadRequest("networks and guests need root: use sudo, or --simulate for the control plane alone")
    from kilonova.service.sockets import bind

    state.make()
    lock = state.lock()
    listener = bind(options.address, options.port)
    state.write_options(options)
    password = admin_password or (None if credentials.password(state) else secrets.token_urlsafe(15))
    ready = None
    if detach:
        ready = fork_away(state.log_dir / "output.log", _READY_WITHIN_S)
        if ready is None:
            _say_ready(state, options, as_json)
            return
    from kilonova.service.embedded import run

    def now_ready() -> None:
        report(ready, None)
        if ready is None:
            _say_ready(state, options, as_json)

    try:
        run(state, options, listener, password, now_ready)
    except KilonovaError as error:
        if ready is None:
            raise
        report(ready, error)
        sys.exit(1)
    finally:
        os.close(lock)


def _options(
    state: StateDirectory,
    mode: str | None,
    driver: str | None,
    listen: tuple[str, int] | None,
    host_name: str | None,
    acceleration: str | None,
    trunk: dict[str, str],
    public_interface: str | None,
    flat: dict[str, str],
    tunnel: dict[str, str],
    network_types: list[str],
) -> Options:
    """What was asked, else what the directory remembers, else the defaults."""
    known = state.read_options()
    if known and mode and mode != known.mode:
        raise BadRequest(f"{state.path} is a cloud in {known.mode} mode; use another --state-dir for --{mode}")
    if known and host_name and host_name != known.host_name:
        raise BadRequest(f"{state.path} is the host {known.host_name}; use another --state-dir for {host_name}")
    if known and driver and driver != known.driver:
        raise BadRequest(
            f"{state.path} has guests of the driver {known.driver}; use another --state-dir for --driver {driver}"
        )
    base = known or Options(prefix=state.prefix)
    mode = mode or base.mode
    driver = driver or ("fake" if mode == "simulate" else base.driver)
    if mode == "simulate" and driver != "fake":
        raise BadRequest(f"--driver {driver} needs a kernel: --simulate has the driver fake only")
    if mode == "sandbox" and public_interface:
        raise BadRequest("--public-interface: a sandbox is closed; leave one of the two out")
    if len(tunnel) > 1:
        raise BadRequest("--tunnel: one device carries VXLAN; give it once")
    for device, text in tunnel.items():
        _check_interface(device, text)
    tunnel_interface, tunnel_address = next(iter(tunnel.items()), (base.tunnel_interface, base.tunnel_address))
    address, port = listen or (base.address, base.port)
    return Options(
        mode=mode,
        driver=driver,
        address=address,
        port=port,
        host_name=host_name or base.host_name,
        prefix=base.prefix,
        acceleration=acceleration or base.acceleration,
        trunks=trunk or base.trunks,
        flat_bridges=flat or base.flat_bridges,
        tunnel_interface=tunnel_interface,
        tunnel_address=tunnel_address,
        public_interface=public_interface or base.public_interface,
        network_types=network_types or base.network_types,
    )


def _check_interface(device: str, text: str) -> None:
    try:
        IPv4Interface(text)
    except ValueError:
        raise BadRequest(f"--tunnel {device}={text}: '{text}' is no IPv4 address such as 192.0.2.1/24") from None


def _say_ready(state: StateDirectory, options: Options, as_json: bool) -> None:
    if as_json:
        url = f"http://{options.address}:{options.port}"
        show_json({"url": url, "mode": options.mode, "driver": options.driver, "openrc": str(state.openrc)})
        return
    click.echo(f"Kilonova is up at http://{options.address}:{options.port} ({options.mode}, driver {options.driver})")
    click.echo(f"  source {state.openrc}")
    click.echo("  openstack server list")


@click.command(short_help="End a cloud and remove what it made in the kernel.", epilog=example("sudo kilonova down"))
@state_dir_option
@click.option("--keep-guests", is_flag=True, help="End the process only: guests and networks go on without it.")
@click.option("--purge", is_flag=True, help="Remove the state directory too: servers, images, passwords, everything.")
@json_option
def down(state_dir: Path, keep_guests: bool, purge: bool, as_json: bool) -> None:
    """End the cloud on this machine: the process, the guests, every namespace and link it made.

    What the users made stays in the state directory; `kilonova up` brings it back. Nothing running is no error.
    """
    if keep_guests and purge:
        raise click.UsageError("--keep-guests and --purge contradict each other")
    state = StateDirectory(state_dir.absolute())
    options = state.read_options()
    stopped = state.stop()
    removed: list[str] = []
    if options is not None and options.mode != "simulate" and not keep_guests:
        from kilonova.service.embedded import configuration
        from kilonova.service.teardown import remove_kernel_state

        removed = remove_kernel_state(configuration(state, options), destroy=purge)
    if purge and options is not None:
        shutil.rmtree(state.path)
    if as_json:
        show_json({"stopped": stopped, "removed": removed, "purged": purge and options is not None})
    elif options is None:
        click.echo(f"no cloud in {state.path}")
    else:
        ended = "stopped" if stopped else "was not running"
        click.echo(f"{state.path}: {ended}, {len(removed)} kernel objects removed{', state removed' if purge else ''}")


@click.command(short_help="Say what runs.", epilog=example("kilonova status"))
@state_dir_option
@json_option
def status(state_dir: Path, as_json: bool) -> None:
    """Say what runs: the process, its services, what each of them is doing. Exits 1 when the cloud is down."""
    state = existing(state_dir.absolute())
    options = state.read_options() or Options()
    from kilonova.service.report import report as look

    found = look(state, options)
    if as_json:
        show_json(found)
    else:
        show_record({name: value for name, value in found.items() if name not in {"services", "counts"}})
        if found["services"]:
            click.echo()
            columns = ["kind", "host", "state", "enabled", "age_s", "progress"]
            rows = [[service[column] for column in columns] for service in found["services"]]
            show_table([column.upper() for column in columns], rows)
        if found["counts"]:
            click.echo()
            show_record(found["counts"])
    if not found["running"]:
        sys.exit(1)


@click.command(short_help="Run some components only.", epilog=example("sudo kilonova service network compute"))
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@state_dir_option
@json_option
def service(names: tuple[str, ...], state_dir: Path, as_json: bool) -> None:
    """Run some components in this process: api, scheduler, network, compute, objectstore.

    They serve the cloud of the state directory, which `kilonova up` made before and which is down now: one process at
    a time serves a directory. What the other components would do waits until a process with them runs.
    """
    from kilonova.service.installation import Component

    chosen = set()
    for name in names:
        matches = [component for component in Component if component.value.startswith(name)]
        if len(matches) != 1:
            raise click.UsageError(f"'{name}' is none of {', '.join(Component)}")
        chosen.add(matches[0])
    state = existing(state_dir.absolute())
    options = state.read_options() or Options()
    if options.mode != "simulate" and os.geteuid() != 0 and chosen & {Component.NETWORK, Component.COMPUTE}:
        raise BadRequest("networks and guests need root: use sudo")
    from kilonova.service.embedded import run
    from kilonova.service.sockets import bind

    lock = state.lock()
    listens = bool(chosen & {Component.API, Component.OBJECTSTORE})
    listener = bind(options.address, options.port) if listens else None

    def say_running() -> None:
        if as_json:
            show_json({"running": sorted(chosen)})
        else:
            click.echo(f"running: {', '.join(sorted(chosen))}")

    try:
        run(state, options, listener, None, say_running, frozenset(chosen))
    finally:
        os.close(lock)
