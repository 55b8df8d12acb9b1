"""A router's radvd: its file and its process.

The process outlives the agent. One whose command line names the wanted file is adopted, never restarted. It is ended
without a chance to say goodbye: radvd's farewell takes the default route from every guest, also when another process,
or another host after a failover, already announces the same router.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from kilonova.errors import CommandFailed
from kilonova.network.host import namespaces
from kilonova.network.host.processes import AT_ONCE, alive, cut_log, end, runs, text_of
from kilonova.network.plan import RouterPlan
from kilonova.network.radvd_files import RadvdFiles, radvd_files
from kilonova.process import run

_START_WITHIN_S = 3.0


class Radvd:
    """Every radvd of a host; files are under `root`, one directory per router that announces. Everything blocks."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def routers(self) -> list[str]:
        """The routers that have a directory here."""
        return sorted(entry.name for entry in self._root.iterdir()) if self._root.is_dir() else []

    def ensure(self, plan: RouterPlan, namespace: str) -> list[str]:
        """Make file and process as planned; what was done."""
        directory = self._root / plan.router_id
        files = radvd_files(plan)
        if files is None:
            return self.remove(plan.router_id)
        process = alive(directory / "pid", directory)
        config = directory / files.config_name
        configured = self.is_configured(plan)
        if process is not None and runs(process, str(config), namespace) and configured:
            cut_log(directory / "log")
            return []
        if process is not None:
            end(process, AT_ONCE)
        self._start(directory, files, namespace)
        return ["started radvd"]

    def remove(self, router_id: str) -> list[str]:
        """End the process and delete its files."""
        directory = self._root / router_id
        if not directory.is_dir():
            return []
        process = alive(directory / "pid", directory)
        if process is not None:
            end(process, AT_ONCE)
        shutil.rmtree(directory, ignore_errors=True)
        return ["removed radvd"]

    def process(self, router_id: str) -> int | None:
        """The live radvd of a router."""
        return alive(self._root / router_id / "pid", self._root / router_id)

    def is_configured(self, plan: RouterPlan) -> bool:
        """Whether its configuration file says what is planned; there is nothing to say where nothing is announced."""
        files = radvd_files(plan)
        return files is None or text_of(self._root / plan.router_id / files.config_name) == files.config

    def _start(self, directory: Path, files: RadvdFiles, namespace: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.glob("radvd-*.conf"):
            if old.name != files.config_name:
                old.unlink()
        (directory / "pid").unlink(missing_ok=True)
        config = directory / files.config_name
        config.write_text(files.config)
        config.chmod(0o644)
        words = ["radvd", "-C", str(config), "-p", str(directory / "pid")]
        words += ["-m", "logfile", "-l", str(directory / "log")]
        namespaces.run_inside(namespace, run, words)
        give_up = time.monotonic() + _START_WITHIN_S
        while alive(directory / "pid", directory) is None:
            if time.monotonic() > give_up:
                said = (directory / "log").read_text()[-300:] if (directory / "log").exists() else "nothing"
                raise CommandFailed(f"radvd of router {directory.name} did not start; its log says: {said}")
            time.sleep(0.002)
