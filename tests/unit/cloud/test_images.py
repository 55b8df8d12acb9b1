"""The use cases of images: who sees what, what may be changed, sharing, uploads that break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, update

from kilonova.cloud import image_list, image_members, image_upload, images
from kilonova.cloud.image_bytes import ImageBytes
from kilonova.cloud.image_list import Filters
from kilonova.cloud.image_upload import ImageKeeper
from kilonova.cloud.images import Change, Image
from kilonova.config import Config
from kilonova.context import Context
from kilonova.errors import (
    AlreadyExists,
    BadRequest,
    Conflict,
    Forbidden,
    KilonovaError,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
)
from kilonova.ids import ProjectId, RequestId
from kilonova.objectstore.component import ObjectStore
from kilonova.objectstore.http import ObjectStoreApplication
from kilonova.store import schema
from kilonova.store.database import Store
from kilonova.store.paging import Page, SortKey


def of(project: str, role: str = "member") -> Context:
    return Context(request_id=RequestId("req-1"), project_id=ProjectId(project), roles=frozenset({role}))


ADMIN, A, B = of("admins", "admin"), of("a"), of("b")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/k.sqlite")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def objects(store: Store, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    component = ObjectStore(store, Config(state_dir=tmp_path))
    await component.start()
    yield component
    await component.stop()


@pytest.fixture
async def image_bytes(objects: ObjectStore) -> AsyncIterator[ImageBytes]:
    service = Context(request_id=RequestId("r"), roles=frozenset({"service"}))
    application = ObjectStoreApplication(objects, lambda _token, _request: service)
    client = ImageBytes("http://o/object-store/v1", lambda: "t", transport=httpx.ASGITransport(application))
    yield client
    await client.close()


async def make(store: Store, context: Context = A, **attributes: Any) -> Image:
    attributes = {"disk_format": "raw", "container_format": "bare", **attributes}
    return await store.write(images.create, context, attributes)


async def listed(store: Store, context: Context, page: Page | None = None, **filters: Any) -> list[str | None]:
    found = await store.read(image_list.list_, context, Filters(**filters), page or Page())
    return [image.name for image in found]


async def stream(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


# ------------------------------------------------------------------------------------------------ visibility
async def test_who_sees_an_image_by_id_and_in_lists(store: Store) -> None:
    made = {name: await make(store, ADMIN, name=name, visibility=name, owner="a") for name in images.VISIBILITIES}
    await store.write(image_members.add, A, made["shared"].id, "b")

    async def sees(context: Context, name: str) -> bool:
        try:
            await store.read(images.get, context, made[name].id)
        except NotFound:
            return False
        return True

    assert [await sees(A, name) for name in images.VISIBILITIES] == [True] * 4
    assert [await sees(B, name) for name in images.VISIBILITIES] == [True, False, True, True]
    assert [await sees(of("c"), name) for name in images.VISIBILITIES] == [True, False, False, True]
    assert sorted(map(str, await listed(store, A))) == ["community", "private", "public", "shared"]
    assert await listed(store, B) == ["public"]
    assert await listed(store, B, visibility="community") == ["community"]
    assert sorted(map(str, await listed(store, B, visibility="all"))) == ["community", "public"]
    assert sorted(map(str, await listed(store, ADMIN))) == ["private", "public", "shared"]


async def test_shared_image_is_listed_once_it_is_accepted(store: Store) -> None:
    image = await make(store, name="s")
    await store.write(image_members.add, A, image.id, "b")
    assert await listed(store, B) == []
    assert await listed(store, B, member_status="pending") == ["s"]
    await store.write(image_members.set_status, B, image.id, "b", "accepted")
    assert await listed(store, B) == ["s"]
    await store.write(image_members.set_status, B, image.id, "b", "rejected")
    assert await listed(store, B) == []
    assert await listed(store, B, member_status="all", visibility="shared") == ["s"]
    await store.write(images.change, A, image.id, [Change("replace", "visibility", "private")])
    assert await listed(store, B, member_status="all") == []


async def test_sharing_is_the_owners_and_accepting_the_members(store: Store) -> None:
    image = await make(store)
    private = await make(store, visibility="private")
    await store.write(image_members.add, A, image.id, "b")
    refused: list[tuple[type[KilonovaError], Callable[..., Any], tuple[Any, ...]]] = [
        (AlreadyExists, image_members.add, (A, image.id, "b")),
        (Forbidden, image_members.add, (B, image.id, "c")),
        (NotFound, image_members.add, (of("c"), image.id, "c")),
        (Forbidden, image_members.add, (A, private.id, "b")),
        (Forbidden, image_members.list_, (A, private.id)),
        (Forbidden, image_members.set_status, (A, image.id, "b", "accepted")),
        (BadRequest, image_members.set_status, (B, image.id, "b", "maybe")),
        (Forbidden, image_members.remove, (B, image.id, "b")),
        (NotFound, image_members.remove, (A, image.id, "c")),
        (NotFound, image_members.get, (B, image.id, "c")),
    ]
    for error, unit, arguments in refused:
        with pytest.raises(error):
            await store.write(unit, *arguments)
    await store.write(image_members.add, A, image.id, "c")
    assert [member.project_id for member in await store.read(image_members.list_, A, image.id)] == ["b", "c"]
    assert [member.project_id for member in await store.read(image_members.list_, B, image.id)] == ["b"]
    await store.write(image_members.remove, A, image.id, "b")
    with pytest.raises(NotFound):
        await store.read(images.get, B, image.id)


# ------------------------------------------------------------------------------------------------ attributes
@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ({"status": "active"}, Forbidden),
        ({"size": 1}, Forbidden),
        ({"checksum": "x"}, Forbidden),
        ({"location": "file:///etc/passwd"}, Forbidden),
        ({"os_glance_failed_import": "x"}, Forbidden),
        ({"visibility": "public"}, Forbidden),
        ({"owner": "b"}, Forbidden),
        ({"visibility": "secret"}, BadRequest),
        ({"disk_format": "floppy"}, BadRequest),
        ({"container_format": "box"}, BadRequest),
        ({"min_disk": -1}, BadRequest),
        ({"min_ram": "1"}, BadRequest),
        ({"min_ram": True}, BadRequest),
        ({"protected": "yes"}, BadRequest),
        ({"name": "n" * 256}, BadRequest),
        ({"name": "a\0b"}, BadRequest),
        ({"id": "not-a-uuid"}, BadRequest),
        ({"tags": "x"}, BadRequest),
        ({"tags": ["t" * 256]}, BadRequest),
        ({"a_property": 5}, BadRequest),
        ({"": "x"}, BadRequest),
        ({f"p{n}": "" for n in range(129)}, TooLarge),
        ({"tags": [str(n) for n in range(129)]}, TooLarge),
    ],
)
async def test_what_a_client_may_not_say_is_refused(
    store: Store, attributes: dict[str, Any], error: type[KilonovaError]
) -> None:
    with pytest.raises(error):
        await make(store, **attributes)
    assert await listed(store, A) == []


async def test_attributes_and_properties_change(store: Store) -> None:
    image = await make(store, name="one", os_distro="debian", tags=["x", "x"])
    assert (image.status, image.visibility, image.tags) == ("queued", "shared", ("x",))
    steps = [
        Change("replace", "name", "two"),
        Change("add", "os_version", "12"),
        Change("replace", "os_version", "13"),
        Change("remove", "os_distro"),
        Change("replace", "tags", ["a", "b"]),
        Change("add", "min_disk", 5),
    ]
    changed = await store.write(images.change, A, image.id, steps)
    assert (changed.name, changed.properties, changed.tags, changed.min_disk_gb) == (
        "two",
        {"os_version": "13"},
        ("a", "b"),
        5,
    )


async def test_a_patch_is_all_or_nothing(store: Store) -> None:
    image = await make(store, name="one")
    for step, error in [
        (Change("replace", "absent", "x"), Conflict),
        (Change("remove", "absent"), Conflict),
        (Change("remove", "name"), Forbidden),
        (Change("replace", "id", image.id), Forbidden),
        (Change("replace", "checksum", "x"), Forbidden),
        (Change("replace", "owner", "b"), Forbidden),
        (Change("replace", "visibility", "public"), Forbidden),
    ]:
        with pytest.raises(error):
            await store.write(images.change, A, image.id, [Change("replace", "name", "two"), step])
    assert await listed(store, A) == ["one"]
    given = await store.write(images.change, ADMIN, image.id, [Change("replace", "owner", "b")])
    assert given.project_id == "b"


async def test_formats_are_fixed_once_there_are_bytes(store: Store, image_bytes: ImageBytes) -> None:
    image = await make(store)
    await store.write(images.change, A, image.id, [Change("replace", "disk_format", "iso")])
    await store.write(images.change, A, image.id, [Change("replace", "disk_format", "raw")])
    await image_upload.upload(store, image_bytes, A, image.id, stream(b"x"))
    with pytest.raises(Forbidden, match="queued"):
        await store.write(images.change, A, image.id, [Change("replace", "disk_format", "qcow2")])


async def test_others_do_not_change_what_they_see(store: Store) -> None:
    image = await make(store, visibility="community")
    private = await make(store, visibility="private")
    for unit, arguments in (
        (images.change, ([],)),
        (images.delete_, ()),
        (images.add_tag, ("x",)),
        (images.remove_tag, ("x",)),
    ):
        for image_id, error in ((image.id, Forbidden), (private.id, NotFound)):
            with pytest.raises(error):
                await store.write(unit, B, image_id, *arguments)


async def test_protected_image_is_not_deleted(store: Store) -> None:
    image = await make(store, protected=True)
    with pytest.raises(Forbidden, match="protected"):
        await store.write(images.delete_, A, image.id)
    await store.write(images.change, A, image.id, [Change("replace", "protected", False)])
    await store.write(images.delete_, A, image.id)
    with pytest.raises(NotFound):
        await store.read(images.get, A, image.id)


async def test_an_id_is_taken_once(store: Store) -> None:
    image = await make(store)
    with pytest.raises(AlreadyExists):
        await make(store, ADMIN, id=image.id)


async def test_a_project_does_not_take_the_id_of_an_image_that_is_gone(store: Store) -> None:
    """A host may still have that image's bytes, which another project may not see."""
    image = await make(store, visibility="private")
    await store.write(images.delete_, A, image.id)
    with pytest.raises(Forbidden, match="id"):
        await make(store, B, id=image.id)


# ------------------------------------------------------------------------------------------------ lists
async def test_filters(store: Store) -> None:
    await make(store, name="one", tags=["red", 'a", "b'], os_distro="debian", min_ram=5)
    await make(store, name="two", tags=["red", "blue"], os_distro="fedora", disk_format="iso")
    await make(store, name="a,b", os_hidden=False, protected=True)
    await make(store, name="hidden", os_hidden=True)

    async def names(**by_name: str) -> list[str]:
        return sorted(map(str, await listed(store, A, by_name=by_name)))

    assert await names(name="one") == ["one"]
    assert await names(name='in:one,"a,b"') == ["a,b", "one"]
    assert await names(os_distro="debian") == ["one"]
    assert await names(disk_format="iso", os_distro="fedora") == ["two"]
    assert await names(protected="true") == ["a,b"]
    assert await names(min_ram="5") == ["one"]
    assert await names(created_at="gt:2020-01-01T00:00:00Z") == ["a,b", "one", "two"]
    assert await names(created_at="lt:2020-01-01") == []
    assert await names(status="in:queued,active", owner="a") == ["a,b", "one", "two"]
    assert await names(size_min="1") == []
    assert await names(**{'odd"name': "x"}) == []
    assert sorted(map(str, await listed(store, A, tags=["red"]))) == ["one", "two"]
    assert await listed(store, A, tags=["red", "blue"]) == ["two"]
    assert await listed(store, A, tags=["b"]) == []
    assert await listed(store, A, tags=['a", "b']) == ["one"]
    assert await listed(store, A, hidden=True) == ["hidden"]
    for wrong in ({"created_at": "soon"}, {"size_max": "big"}, {"name": 'in:"open'}, {"protected": "perhaps"}):
        with pytest.raises(BadRequest, match=next(iter(wrong)) if "name" not in wrong else "quote"):
            await names(**wrong)


async def test_pages_follow_the_order(store: Store) -> None:
    for name, ram in (("b", 1), ("a", 2), ("c", 1)):
        await make(store, name=name, min_ram=ram)
    order = (SortKey("min_ram_mb", descending=True), SortKey("name"))
    found = await store.read(image_list.list_, A, Filters(), Page(limit=2, sort=order))
    rest = await store.read(image_list.list_, A, Filters(), Page(limit=2, sort=order, marker=found[-1].id))
    assert [image.name for image in [*found, *rest]] == ["a", "b", "c"]
    assert await listed(store, A) == ["c", "a", "b"]
    with pytest.raises(BadRequest, match="marker"):
        await listed(store, A, Page(marker="nowhere"))


# ------------------------------------------------------------------------------------------------ bytes
async def test_upload_makes_the_image_active_and_says_what_it_is(store: Store, image_bytes: ImageBytes) -> None:
    image = await make(store)
    await image_upload.upload(store, image_bytes, A, image.id, stream(b"ab", b"", b"c"), length=3)
    active = await store.read(images.get, A, image.id)
    assert (active.status, active.size_bytes, active.virtual_size_bytes) == ("active", 3, 3)
    assert active.checksum == "900150983cd24fb0d6963f7d28e17f72"
    assert (active.hash_algorithm, str(active.hash_value)[:8]) == ("sha512", "ddaf35a1")
    with pytest.raises(Conflict, match="active"):
        await image_upload.upload(store, image_bytes, A, image.id, stream(b"x"))


async def test_refused_upload_leaves_the_image_queued_and_no_bytes(store: Store, image_bytes: ImageBytes) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield b"x" * 200_000
        raise ConnectionResetError

    image = await make(store, disk_format="qcow2")
    raw = await make(store)
    for which, parts, length, error in [
        (image, stream(b"not a qcow2"), None, UnsupportedMediaType),
        (raw, stream(b"abc"), 4, KilonovaError),
        (raw, breaks(), None, (ConnectionResetError, KilonovaError)),
    ]:
        with pytest.raises(error):  # type: ignore[call-overload]
            await image_upload.upload(store, image_bytes, A, which.id, parts, length=length)
        after = await store.read(images.get, A, which.id)
        assert (after.status, after.object_name) == ("queued", None)
    assert await image_bytes.list() == []
    without_format = await store.write(images.create, A, {"name": "x"})
    with pytest.raises(BadRequest, match="disk_format, container_format"):
        await image_upload.upload(store, image_bytes, A, without_format.id, stream(b"x"))


async def test_second_upload_waits_for_nobody_and_conflicts(store: Store, image_bytes: ImageBytes) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        began.set()
        await go_on.wait()
        yield b"first"

    image = await make(store)
    first = asyncio.create_task(image_upload.upload(store, image_bytes, A, image.id, slow()))
    await began.wait()
    with pytest.raises(Conflict, match="saving"):
        await image_upload.upload(store, image_bytes, A, image.id, stream(b"second"))
    go_on.set()
    await first
    assert (await store.read(images.get, A, image.id)).size_bytes == 5


async def test_cancelled_upload_is_undone(store: Store, image_bytes: ImageBytes) -> None:
    began = asyncio.Event()

    async def never() -> AsyncIterator[bytes]:
        began.set()
        await asyncio.Event().wait()
        yield b""

    image = await make(store)
    task = asyncio.create_task(image_upload.upload(store, image_bytes, A, image.id, never()))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await store.read(images.get, A, image.id)).status == "queued"


async def test_image_deleted_during_its_upload_leaves_no_bytes(store: Store, image_bytes: ImageBytes) -> None:
    image = await make(store)

    async def deleting() -> AsyncIterator[bytes]:
        await store.write(images.delete_, A, image.id)
        yield b"bytes"

    with pytest.raises(NotFound, match="deleted"):
        await image_upload.upload(store, image_bytes, A, image.id, deleting())
    assert await image_bytes.list() == []


async def test_staged_bytes_become_the_images_by_import(store: Store, image_bytes: ImageBytes) -> None:
    image = await make(store)
    with pytest.raises(Conflict, match="stage"):
        await store.write(image_upload.import_staged, A, image.id)
    await image_upload.upload(store, image_bytes, A, image.id, stream(b"x"), staged=True)
    assert (await store.read(images.get, A, image.id)).status == "uploading"
    await store.write(image_upload.import_staged, A, image.id)
    assert (await store.read(images.get, A, image.id)).status == "active"


async def test_keeper_resets_what_died_and_removes_bytes_of_no_image(
    store: Store, image_bytes: ImageBytes, tmp_path: Path
) -> None:
    def die_while_saving(tx: Connection, image_id: str) -> None:
        tx.execute(
            update(schema.images).where(schema.images.c.id == image_id).values(status="saving", object_name="dead")
        )

    dead, alive = await make(store), await make(store)
    await store.write(die_while_saving, dead.id)
    await image_upload.upload(store, image_bytes, A, alive.id, stream(b"x"))
    await image_bytes.put("dead", stream(b"half"))
    keeper = ImageKeeper(store, image_bytes, Config(state_dir=tmp_path))
    await keeper.start()
    assert (await store.read(images.get, A, dead.id)).status == "queued"
    assert await keeper.sweep(older_than_s=3600) == 0
    assert await keeper.sweep(older_than_s=0) == 1
    kept = [each.name for each in await image_bytes.list()]
    assert kept == [(await store.read(images.get, A, alive.id)).object_name]
    await keeper.stop()


async def test_silent_object_store_is_told(store: Store) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    image = await make(store)
    silent = ImageBytes("http://o/object-store/v1", lambda: "t", transport=httpx.MockTransport(refuse))
    with pytest.raises(Unavailable, match="object store"):
        await image_upload.upload(store, silent, A, image.id, stream(b"x"))
    assert (await store.read(images.get, A, image.id)).status == "queued"
    await silent.close()
