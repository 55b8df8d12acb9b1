"""Why a packet would, or would not, arrive: the rows decide its way, the hosts tell whether each hop does as they say.

`explain` is the use case: one transaction for the rows, one call to each host concerned, and a pure walk over both
(`kilonova.cloud.explain.walk`).
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from sqlalchemy import Connection

from kilonova.cloud.controller import Cloud
from kilonova.cloud.explain.actual import Hosts, Needs
from kilonova.cloud.explain.endpoints import Endpoint, Lookup
from kilonova.cloud.explain.hops import document
from kilonova.cloud.explain.question import Question
from kilonova.cloud.explain.rows import Snapshot, load
from kilonova.cloud.explain.walk import walk
from kilonova.context import Context
from kilonova.errors import BadRequest, KilonovaError
from kilonova.network.observation import Observation
from kilonova.network.texts import plain_address

ANSWER_WITHIN_S = 4.0
"""A host that does not tell within this is deaf."""


async def explain(cloud: Cloud, context: Context, question: Question) -> dict[str, Any]:
    """The explanation as a document. Raises `NotFound`, `Conflict` or `BadRequest`, naming the field.

    A member sees what its project owns: the ends are its own, or outside; of the rest nothing is told.
    """
    if question.source_address is not None:
        try:
            plain_address(question.source_address)
        except ValueError:
            raise BadRequest(f"source_address: '{question.source_address}' is no address.") from None
    source, destination, snapshot = await cloud.store.read(_read, context, question)
    guess = Hosts()
    ends = (snapshot, source, destination, question.traffic)
    walk(*ends, guess, question.source_address)
    asked = [(host, needs) for host, needs in guess.needs.items() if host]
    answers = await asyncio.gather(*(_ask(cloud, context, host, needs) for host, needs in asked))
    told = {host: answer for (host, _), answer in zip(asked, answers, strict=True)}
    return document(walk(*ends, Hosts(told), question.source_address))


def _read(tx: Connection, context: Context, question: Question) -> tuple[Endpoint, Endpoint, Snapshot]:
    source, destination = Lookup(tx, context, question.project).both(question.source, question.destination)
    addresses = {end.address for end in (source, destination) if end.address is not None}
    return source, destination, load(tx, context, {*source.ports, *destination.ports}, addresses)


async def _ask(cloud: Cloud, context: Context, host: str, needs: Needs) -> Observation | str:
    """What a host tells, or why it does not."""
    arguments = msgspec.to_builtins(needs.concern())
    try:
        answer = await cloud.bus.call(
            f"network.{host}", "observe", arguments, context=context, deadline_s=ANSWER_WITHIN_S
        )
    except KilonovaError as error:
        return error.message
    return msgspec.convert(answer, Observation)
