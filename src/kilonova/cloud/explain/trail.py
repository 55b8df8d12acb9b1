"""Collects hops: how what the rows say and what a host told become a verdict. Decides nothing about the way."""

from __future__ import annotations

from collections.abc import Iterable

from kilonova.cloud.explain.actual import Hosts, Sight, Wrong
from kilonova.cloud.explain.hops import Direction, Hop, Verdict
from kilonova.cloud.explain.question import Traffic
from kilonova.cloud.explain.rows import Network, Port, Router, Snapshot

MEND = "kilonova doctor --mend"
_SHOWN = 3


class Trail:
    """The hops so far. `ended`: the packet goes no further as the rows say, so nothing after it can be told."""

    def __init__(self, snapshot: Snapshot, hosts: Hosts, traffic: Traffic) -> None:
        self.snapshot = snapshot
        self.hosts = hosts
        self.traffic = traffic
        self.hops: list[Hop] = []
        self.direction: Direction = "forward"
        self.ended = False

    # -------------------------------------------------------------------------------------------- verdicts
    def note(
        self,
        name: str,
        where: str,
        intent: str,
        verdict: Verdict = "ok",
        *,
        why: str = "",
        command: str = "",
        actual: str = "",
        decides: bool = True,
    ) -> None:
        self.hops.append(Hop(name, where, intent, actual, verdict, why, command, self.direction, decides))

    def drop(self, name: str, where: str, intent: str, why: str, command: str = "") -> None:
        """What the rows say is enough to drop it."""
        self.note(name, where, intent, "dropped", why=why, command=command)

    def end(self, name: str, where: str, intent: str, why: str, command: str = "") -> None:
        """As `drop`, and there is no way further."""
        self.drop(name, where, intent, why, command)
        self.ended = True

    def check(
        self,
        name: str,
        where: str,
        intent: str,
        sight: Sight,
        wrong: Wrong,
        *,
        planned: Iterable[str] = (),
        owners: Iterable[str] = (),
        visible: bool = True,
        actual: str = "",
    ) -> None:
        """The rows let it pass; does the host? `planned` are fragments without which nothing is there at all."""
        if sight.told is None:
            why, command = self.silence(sight)
            self.note(name, where, intent, "unknown", why=why, command=command, actual="not known")
            return
        if sight.told.simulated:
            self.note(name, where, intent, actual="simulated: no kernel")
            return
        different = sight.wrong(wrong)
        found = [str(item) for item in different]
        found += [f"the plan of its host has no {item}" for item in planned if not sight.is_planned(item)]
        if not found:
            self.note(name, where, intent, actual=actual or "as planned")
            return
        failure = sight.failure(*owners)
        if not visible:
            found, failure = ["it is not as planned"], ""
        if failure and self.snapshot.project_id is not None:
            failure = "its log says why"  # of commands and files on the host
        why = found[0] + (f" (the agent failed: {failure})" if failure else "")
        # All planned rules are there: what those that somebody added do to the packet, nobody can tell.
        surely = len(found) > len(different) or any(item.key not in ("foreign", "order") for item in different)
        verdict: Verdict = "dropped" if surely else "unknown"
        self.note(name, where, intent, verdict, why=why, actual="; ".join(found[:_SHOWN]), command=MEND)

    def strangers(self, name: str, sight: Sight, namespace_end: str) -> None:
        """Packet filters that are not this cloud's: what they do is not known."""
        tables = sight.told.foreign_tables if sight.told else {}
        for namespace, names in tables.items():
            if namespace.endswith(namespace_end):
                where, why = f"{self.host(sight.host)}: {namespace}", f"nft tables that are not this cloud's: {names}"
                command = f"ip netns exec {namespace} nft delete table ..."
                if self.snapshot.project_id is not None:  # who is no administrator cannot look there either
                    where, why, command = (
                        self.host(sight.host),
                        "there are packet filters that are not this cloud's",
                        "",
                    )
                self.note(name, where, "only this cloud's tables", "unknown", why=why, command=command)

    def silence(self, sight: Sight) -> tuple[str, str]:
        """Why nothing is known of a host, and what to do."""
        service = self.snapshot.services.get(("network", sight.host))
        agent = f"the network agent of {self.host(sight.host)}"
        if service is None:
            return f"{agent} was never heard of", "kilonova status"
        heard = f"its last heartbeat was {service.age_s:.0f} s ago"
        if not service.alive:
            return f"{agent} is dead: {heard}, and no change since then is applied", "kilonova up"
        # What the bus says of it names the host.
        why = f": {sight.silence}" if self.snapshot.project_id is None else ""
        return f"{agent} does not answer ({heard}){why}", "kilonova status"

    # -------------------------------------------------------------------------------------------- words
    def host(self, name: str) -> str:
        """A host's name, for those who may know it."""
        return name if self.snapshot.project_id is None and name else "its host"

    def port(self, port: Port) -> str:
        instance = self.snapshot.instances.get(port.device_id)
        return f"port {port.id}" + (f" of {instance.name}" if instance else "")

    def network(self, network: Network) -> str:
        return f"network {network.name or network.id}"

    def router(self, router: Router) -> str:
        """A router of another project is not named."""
        return f"router {router.name or router.id}" if self.snapshot.may_see(router.project_id) else "the router"
