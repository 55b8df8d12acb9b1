"""What an explanation is made of: hops with their verdicts, and what follows from them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["ok", "dropped", "unknown"]
Direction = Literal["forward", "reply"]


@dataclass(frozen=True)
class Hop:
    """One place that the packet, or its answer, has to pass."""

    name: str
    where: str
    """The host, and what on it."""
    intent: str
    """What the rows of the store say."""
    actual: str = ""
    """What the host's kernel says."""
    verdict: Verdict = "ok"
    why: str = ""
    command: str = ""
    """What would change it."""
    direction: Direction = "forward"
    decides: bool = True
    """False: that it is unknown does not make the end unknown; nobody but the guest can know it."""


@dataclass(frozen=True)
class Explanation:
    source: str
    destination: str
    traffic: str
    hops: tuple[Hop, ...]

    @property
    def culprit(self) -> Hop | None:
        """The first hop that drops; else the first of which nobody knows whether it does."""
        dropped = next((hop for hop in self.hops if hop.verdict == "dropped"), None)
        return dropped or next((hop for hop in self.hops if hop.verdict == "unknown" and hop.decides), None)

    @property
    def verdict(self) -> Literal["arrives", "dropped", "unknown"]:
        culprit = self.culprit
        if culprit is None:
            return "arrives"
        return "dropped" if culprit.verdict == "dropped" else "unknown"

    @property
    def conclusion(self) -> str:
        """The verdict in one line."""
        culprit = self.culprit
        packet = f"{self.traffic} from {self.source} to {self.destination}"
        if culprit is None:
            return f"{packet} should arrive"
        if culprit.verdict == "unknown":
            return f"{packet}: it is not known whether it passes {culprit.name} ({culprit.where}): {culprit.why}"
        what = ": the answer to it is" if culprit.direction == "reply" else " is"
        return f"{packet}{what} dropped at {culprit.name} ({culprit.where}): {culprit.why}"


def document(explanation: Explanation) -> dict[str, Any]:
    """As the API answers it."""
    culprit = explanation.culprit
    return {
        "source": explanation.source,
        "destination": explanation.destination,
        "traffic": explanation.traffic,
        "verdict": explanation.verdict,
        "conclusion": explanation.conclusion,
        "hop": None if culprit is None else culprit.name,
        "command": "" if culprit is None else culprit.command,
        "hops": [
            {
                "name": hop.name,
                "where": hop.where,
                "direction": hop.direction,
                "intent": hop.intent,
                "actual": hop.actual,
                "verdict": hop.verdict,
                "why": hop.why,
                "command": hop.command,
            }
            for hop in explanation.hops
        ],
    }
