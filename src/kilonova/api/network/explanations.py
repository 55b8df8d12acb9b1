"""Kilonova's own routes that explain and audit: why a packet would arrive or not, and what differs from the plan."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from kilonova.api.network.bodies import Text
from kilonova.api.network.registry import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud.audit import audit
from kilonova.cloud.explain import explain
from kilonova.cloud.explain.question import Question, parse_traffic

End = Annotated[str, Meta(min_length=1, max_length=255)]


class WantedAudit(Struct, forbid_unknown_fields=True):
    mend: bool = False


class AuditRequest(Struct, forbid_unknown_fields=True):
    audit: WantedAudit


class WantedExplanation(Struct, forbid_unknown_fields=True):
    source: End
    destination: End
    traffic: Annotated[str, Meta(max_length=32)] = "icmp"
    project: Text | None = None
    source_address: Annotated[str, Meta(max_length=64)] | None = None


class ExplanationRequest(Struct, forbid_unknown_fields=True):
    explanation: WantedExplanation


@registry.route("POST", "/kilonova/explanations", body=ExplanationRequest)
async def explain_packet(request: ApiRequest, body: ExplanationRequest) -> Any:
    """Reads only; a member is told about its own project."""
    wanted = body.explanation
    question = Question(
        wanted.source, wanted.destination, parse_traffic(wanted.traffic), wanted.project, wanted.source_address
    )
    return {"explanation": await explain(request.cloud, request.context, question)}


@registry.route("POST", "/kilonova/audits", policy=Policy.ADMIN, body=AuditRequest)
async def audit_cloud(request: ApiRequest, body: AuditRequest) -> Any:
    """Reads only, unless it is to mend."""
    return {"audit": await audit(request.cloud, request.context, mend=body.audit.mend)}
