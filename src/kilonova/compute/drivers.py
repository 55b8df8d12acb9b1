"""Makes the driver that the configuration names."""

from __future__ import annotations

from kilonova.compute.driver import Driver
from kilonova.compute.fake import FakeDriver
from kilonova.config import Config


def make_driver(config: Config) -> Driver:
    """The host's driver, not yet opened."""
    host = config.host
    if host.simulate or host.driver == "fake":
        return FakeDriver(host, config.state_dir)
    if host.driver == "namespace":
        from kilonova.compute.namespace import NamespaceDriver

        return NamespaceDriver(host, config.state_dir)
    from kilonova.compute.qemu import QemuDriver

    return QemuDriver(host, config.state_dir)
