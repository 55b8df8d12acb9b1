"""What every bus must do: the conformance suite. A new bus is one more parameter of `make_bus`."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from kilonova import log as logs
from kilonova.bus import Bus
from kilonova.bus.local import LocalBus
from kilonova.context import Context
from kilonova.errors import Conflict, DeadlineExceeded, InternalError, KilonovaError, NoMoreAddresses, NotSupported
from kilonova.ids import ProjectId, RequestId

CONTEXT = Context(request_id=RequestId("req-7"), project_id=ProjectId("p1"), roles=frozenset({"member"}))
TOPIC = "compute.host1"


@pytest.fixture(params=[LocalBus], ids=["local"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    make_bus: Callable[[], Bus] = request.param
    bus = make_bus()
    yield bus
    await bus.close()


class Recorder:
    """A handler that notes what it is given and can be held up."""

    def __init__(self, held: bool = False) -> None:
        self.seen: list[Any] = []
        self.ended: list[Any] = []
        self.most_at_once = 0
        self.go_on = asyncio.Event()
        self._news = asyncio.Event()
        if not held:
            self.go_on.set()

    async def __call__(self, context: Context, args: dict[str, Any]) -> dict[str, Any]:
        self.seen.append(args.get("n"))
        self.most_at_once = max(self.most_at_once, len(self.seen) - len(self.ended))
        self._news.set()
        await self.go_on.wait()
        self.ended.append(args.get("n"))
        self._news.set()
        return {"n": args.get("n"), "project": context.project_id}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._news.clear()
                await self._news.wait()


async def test_a_call_brings_the_reply_and_the_context_arrives_whole(bus: Bus) -> None:
    contexts: list[Context] = []

    async def handler(context: Context, args: dict[str, Any]) -> dict[str, Any]:
        contexts.append(context)
        return {"sum": sum(args["terms"]), "nested": {"none": None, "text": "ä", "bytes": b"\x00"}}

    bus.subscribe(TOPIC, {"add": handler})
    answer = await bus.call(TOPIC, "add", {"terms": [1, 2, 3]}, context=CONTEXT)
    assert answer == {"sum": 6, "nested": {"none": None, "text": "ä", "bytes": b"\x00"}}
    assert contexts == [CONTEXT]


async def test_arguments_are_copied(bus: Bus) -> None:
    async def handler(_context: Context, args: dict[str, Any]) -> None:
        args["list"].append("changed by the handler")

    bus.subscribe(TOPIC, {"change": handler})
    mine: dict[str, Any] = {"list": []}
    await bus.call(TOPIC, "change", mine, context=CONTEXT)
    assert mine == {"list": []}


async def test_what_is_not_plain_data_is_refused_at_the_sender(bus: Bus) -> None:
    with pytest.raises(TypeError):
        await bus.cast(TOPIC, "look", {"object": object()}, context=CONTEXT)


async def test_a_call_waits_for_a_subscriber_that_comes_later(bus: Bus) -> None:
    asking = asyncio.create_task(bus.call(TOPIC, "look", {"n": 1}, context=CONTEXT))
    await asyncio.sleep(0)  # lets the call be sent
    bus.subscribe(TOPIC, {"look": Recorder()})
    assert (await asking)["n"] == 1


async def test_concurrent_calls_get_their_own_replies(bus: Bus) -> None:
    bus.subscribe(TOPIC, {"look": Recorder()})
    answers = await asyncio.gather(*(bus.call(TOPIC, "look", {"n": n}, context=CONTEXT) for n in range(200)))
    assert [answer["n"] for answer in answers] == list(range(200))


async def test_a_cast_is_handled_once_by_one_of_the_subscribers(bus: Bus) -> None:
    first, second = Recorder(), Recorder()
    bus.subscribe(TOPIC, {"look": first})
    bus.subscribe(TOPIC, {"look": second})
    for n in range(20):
        await bus.cast(TOPIC, "look", {"n": n}, context=CONTEXT)
    await bus.close()
    assert sorted(first.ended + second.ended) == list(range(20))


async def test_a_fanout_reaches_every_subscriber_of_the_topic_and_nobody_else(bus: Bus) -> None:
    first, second, other = Recorder(), Recorder(), Recorder()
    bus.subscribe(TOPIC, {"look": first})
    bus.subscribe(TOPIC, {"look": second})
    bus.subscribe("compute.host2", {"look": other})
    await bus.fanout(TOPIC, "look", {"n": 1}, context=CONTEXT)
    await first.until(lambda: first.ended == [1])
    await second.until(lambda: second.ended == [1])
    assert other.seen == []


async def test_a_fanout_to_nobody_is_forgotten(bus: Bus) -> None:
    await bus.fanout(TOPIC, "look", {"n": 1}, context=CONTEXT)
    late = Recorder()
    bus.subscribe(TOPIC, {"look": late})
    await bus.call(TOPIC, "look", {"n": 2}, context=CONTEXT)
    assert late.seen == [2]


@pytest.mark.parametrize("kind", [NoMoreAddresses, Conflict, KilonovaError])
async def test_an_error_travels_as_its_kind(bus: Bus, kind: type[KilonovaError]) -> None:
    async def handler(_context: Context, _args: dict[str, Any]) -> None:
        raise kind("subnet 10.0.0.0/24 has no free address: delete a port")

    bus.subscribe(TOPIC, {"wire": handler})
    with pytest.raises(KilonovaError, match=r"subnet 10\.0\.0\.0/24 has no free address") as caught:
        await bus.call(TOPIC, "wire", {}, context=CONTEXT)
    assert caught.type is (InternalError if kind is KilonovaError else kind)


async def test_a_defect_of_a_handler_does_not_show_its_details(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_context: Context, _args: dict[str, Any]) -> None:
        raise ValueError("the password is hunter2")

    bus.subscribe(TOPIC, {"wire": handler})
    with pytest.raises(InternalError) as caught:
        await bus.call(TOPIC, "wire", {}, context=CONTEXT)
    assert "hunter2" not in caught.value.message
    assert TOPIC in caught.value.message
    assert "ValueError" in caplog.text


async def test_a_result_that_is_not_plain_data_is_a_defect(bus: Bus) -> None:
    async def handler(_context: Context, _args: dict[str, Any]) -> object:
        return object()

    bus.subscribe(TOPIC, {"wire": handler})
    with pytest.raises(InternalError):
        await bus.call(TOPIC, "wire", {}, context=CONTEXT)


async def test_a_method_outside_the_allow_list_is_refused(bus: Bus) -> None:
    bus.subscribe(TOPIC, {"look": Recorder()})
    for method in ("__init__", "close", "look_again"):
        with pytest.raises(NotSupported, match=f"{TOPIC} has no method {method}"):
            await bus.call(TOPIC, method, {}, context=CONTEXT)


async def test_a_cast_that_fails_is_logged(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_context: Context, _args: dict[str, Any]) -> None:
        raise Conflict("instance i1 is being deleted")

    bus.subscribe(TOPIC, {"wire": handler})
    with caplog.at_level(logging.WARNING):
        await bus.cast(TOPIC, "wire", {}, context=CONTEXT)
        await bus.cast(TOPIC, "unknown", {}, context=CONTEXT)
        bus.subscribe("last", {"look": (last := Recorder())})
        await bus.call("last", "look", {"n": 1}, context=CONTEXT)
        assert last.ended == [1]
    assert "instance i1 is being deleted" in caplog.text
    assert "has no method unknown" in caplog.text


async def test_nobody_answers_in_time(bus: Bus) -> None:
    with pytest.raises(DeadlineExceeded, match=f"{TOPIC} did not answer look within 0.01 s"):
        await bus.call(TOPIC, "look", {}, context=CONTEXT, deadline_s=0.01)


async def test_a_handler_that_is_too_slow_is_not_waited_for_but_finishes(bus: Bus) -> None:
    slow = Recorder(held=True)
    bus.subscribe(TOPIC, {"look": slow})
    with pytest.raises(DeadlineExceeded):
        await bus.call(TOPIC, "look", {"n": 1}, context=CONTEXT, deadline_s=0.02)
    assert slow.seen == [1]
    slow.go_on.set()
    await slow.until(lambda: slow.ended == [1])


async def test_expired_messages_are_not_handled(bus: Bus) -> None:
    with pytest.raises(DeadlineExceeded):
        await bus.call(TOPIC, "look", {"n": 1}, context=CONTEXT, deadline_s=0)
    await bus.cast(TOPIC, "look", {"n": 2}, context=CONTEXT, deadline_s=-1)
    late = Recorder()
    bus.subscribe(TOPIC, {"look": late})
    await bus.call(TOPIC, "look", {"n": 3}, context=CONTEXT)
    assert late.seen == [3]


async def test_the_call_of_a_caller_who_went_away_is_not_begun(bus: Bus) -> None:
    asking = asyncio.create_task(bus.call(TOPIC, "look", {"n": 1}, context=CONTEXT))
    await asyncio.sleep(0)  # lets the call be sent
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    late = Recorder()
    bus.subscribe(TOPIC, {"look": late})
    await bus.call(TOPIC, "look", {"n": 2}, context=CONTEXT)
    assert late.seen == [2]


async def test_no_more_than_the_limit_is_handled_at_a_time(bus: Bus) -> None:
    slow = Recorder(held=True)
    bus.subscribe(TOPIC, {"look": slow}, concurrency=3)
    for n in range(10):
        await bus.cast(TOPIC, "look", {"n": n}, context=CONTEXT)
    await slow.until(lambda: len(slow.seen) == 3)
    for n in range(10, 15):
        await bus.fanout(TOPIC, "look", {"n": n}, context=CONTEXT)
    slow.go_on.set()
    await slow.until(lambda: len(slow.ended) == 15)
    assert slow.most_at_once == 3


async def test_close_takes_no_more_and_lets_handlers_end(bus: Bus) -> None:
    slow = Recorder(held=True)
    subscription = bus.subscribe(TOPIC, {"look": slow})
    asking = asyncio.create_task(bus.call(TOPIC, "look", {"n": 1}, context=CONTEXT))
    await slow.until(lambda: slow.seen == [1])
    closing = asyncio.create_task(subscription.close())
    await asyncio.sleep(0)  # lets close begin
    await bus.cast(TOPIC, "look", {"n": 2}, context=CONTEXT)
    assert not closing.done()
    slow.go_on.set()
    await closing
    assert (await asking)["n"] == 1
    assert slow.seen == [1]
    successor = Recorder()
    bus.subscribe(TOPIC, {"look": successor})
    await successor.until(lambda: successor.seen == [2])


async def test_close_may_be_called_twice_and_by_a_handler(bus: Bus) -> None:
    async def handler(_context: Context, _args: dict[str, Any]) -> str:
        await subscription.close()
        return "closed"

    subscription = bus.subscribe(TOPIC, {"stop": handler})
    assert await bus.call(TOPIC, "stop", {}, context=CONTEXT) == "closed"
    await subscription.close()
    await bus.close()


async def test_handlers_log_under_the_request_of_their_message(bus: Bus) -> None:
    async def handler(_context: Context, _args: dict[str, Any]) -> str:
        return logs.request_id.get()

    logs.request_id.set("req-of-the-subscriber")
    bus.subscribe(TOPIC, {"look": handler})
    assert await bus.call(TOPIC, "look", {}, context=CONTEXT) == "req-7"
    assert logs.request_id.get() == "req-of-the-subscriber"


async def test_an_error_nobody_waits_for_any_more_makes_no_noise(bus: Bus) -> None:
    noise: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: noise.append(context))
    release, ended = asyncio.Event(), asyncio.Event()

    async def handler(_context: Context, _args: dict[str, Any]) -> None:
        try:
            await release.wait()
            raise Conflict("too late")
        finally:
            ended.set()

    bus.subscribe(TOPIC, {"wire": handler})
    with pytest.raises(DeadlineExceeded):
        await bus.call(TOPIC, "wire", {}, context=CONTEXT, deadline_s=0.01)
    release.set()
    await ended.wait()
    await bus.close()
    gc.collect()
    assert noise == []
