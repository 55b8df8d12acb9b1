"""Runs an installation in this process from its options: `kilonova up` and `kilonova service`."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Callable

import uvloop

from kilonova import log as logs
from kilonova.config import ApiConfig, Config, HostConfig, NetworkConfig
from kilonova.errors import KilonovaError
from kilonova.service import credentials
from kilonova.service.first_rows import SANDBOX_GATEWAY, prepare
from kilonova.service.installation import ALL, Component, Installation
from kilonova.service.state import Options, StateDirectory

log = logging.getLogger(__name__)


def configuration(state: StateDirectory, options: Options) -> Config:
    """The configuration that the options of a state directory mean."""
    return Config(
        state_dir=state.path,
        api=ApiConfig(address=options.address, port=options.port),
        host=HostConfig(
            name=options.host_name,
            prefix=options.prefix,
            driver=options.driver,  # type: ignore[arg-type]
            acceleration=options.acceleration,  # type: ignore[arg-type]
            simulate=options.mode == "simulate",
            trunks=options.trunks,
            flat_bridges=options.flat_bridges,
            tunnel_interface=options.tunnel_interface,
            tunnel_address=options.tunnel_address,
            public_interface=options.public_interface,
            public_gateway=SANDBOX_GATEWAY.split("/")[0] if options.mode == "sandbox" else "",
        ),
        network=_network(options),
    )


def _network(options: Options) -> NetworkConfig:
    if not options.network_types:
        return NetworkConfig()
    count = len(options.network_types)
    return NetworkConfig(type_weights={name: float(count - i) for i, name in enumerate(options.network_types)})


def run(
    state: StateDirectory,
    options: Options,
    listener: socket.socket | None,
    password: str | None,
    ready: Callable[[], None],
    components: frozenset[Component] = ALL,
) -> None:
    """Serve until SIGTERM or SIGINT. Calls `ready` once the APIs answer.

    A `password` that is given becomes the administrator's; none leaves it as it is.

    Raises the `KilonovaError` that kept it from starting; what had been started is stopped.
    """
    logs.setup(state.log_dir)
    state.write_pid()
    uvloop.run(_serve(state, options, listener, password, ready, components))


async def _serve(
    state: StateDirectory,
    options: Options,
    listener: socket.socket | None,
    password: str | None,
    ready: Callable[[], None],
    components: frozenset[Component],
) -> None:
    config = configuration(state, options)
    installation = Installation(config, components)

    async def first_rows() -> None:
        await prepare(installation, options, password)
        if known := password or credentials.password(state):
            credentials.write(state, config.api, known)

    try:
        await installation.start(listener, first_rows)
        log.info("ready: %s at %s", ", ".join(sorted(components)), config.api.url)
        ready()
        # What is loaded now stays: a full collection need not walk it, which took some 50 ms each time.
        gc.freeze()
        await installation.wait()
    except KilonovaError:
        raise
    except Exception as error:
        log.exception("start failed")
        raise KilonovaError(f"could not start: {error}; {state.log_dir}/kilonova.log has the details") from error
    finally:
        await asyncio.wait_for(installation.stop(), 30)
        state.pid_file.unlink(missing_ok=True)
