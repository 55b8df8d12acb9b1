"""Images and objects by openstacksdk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .running import RunningCloud


def test_copies_are_what_was_uploaded(simulated: RunningCloud, tmp_path: Path) -> None:
    content = os.urandom(5_000_000)
    source = tmp_path / "source"
    source.write_bytes(content)
    sdk = simulated.connect()
    said = {"disk_format": "raw", "container_format": "bare", "os_distro": "x", "validate_checksum": True}
    image = sdk.create_image("sdk-image", filename=str(source), wait=True, **said)
    assert image.status == "active"
    assert image.hash_value == hashlib.sha512(content).hexdigest()
    assert sdk.image.download_image(image).content == content
    assert [each.id for each in sdk.image.images(os_distro="x")] == [image.id]
    again = sdk.create_image("sdk-image", filename=str(source), wait=True, **said)
    assert again.id == image.id
    updated = sdk.image.update_image(image, min_ram=64, kind="y")
    assert (updated.min_ram, updated.properties["kind"]) == (64, "y")
    assert sdk.delete_image(image.id, wait=True)

    sdk.create_container("sdk")
    sdk.create_object("sdk", "a/b c", filename=str(source))
    assert sdk.object_store.download_object("a/b c", container="sdk") == content
    assert [each.name for each in sdk.object_store.objects("sdk", prefix="a/")] == ["a/b c"]
    sdk.delete_object("sdk", "a/b c")
    sdk.delete_container("sdk")


def test_pages_of_images_are_followed(simulated: RunningCloud) -> None:
    sdk = simulated.connect()
    made = {sdk.image.create_image(name=f"page-{n}", disk_format="raw", container_format="bare").id for n in range(5)}
    found = [image.id for image in sdk.image.images(limit=2, sort="name:asc") if image.name.startswith("page-")]
    assert len(found) == 5
    assert set(found) == made
    for image_id in made:
        sdk.image.delete_image(image_id)


def test_qcow2_with_a_backing_file_is_refused(simulated: RunningCloud) -> None:
    sdk = simulated.connect()
    image = sdk.image.create_image(name="attack", disk_format="qcow2", container_format="bare")
    attack = b"QFI\xfb\x00\x00\x00\x03" + (72).to_bytes(8, "big") + bytes(500)
    image.data = attack
    answer = image.upload(sdk.image)
    assert (answer.status_code, "backing file" in answer.text) == (415, True)
    assert sdk.image.get_image(image.id).status == "queued"
    sdk.image.delete_image(image.id)
