"""The frames that tell a link where an address is, byte by byte."""

from __future__ import annotations

import struct

from kilonova.network.host.arp import arp_frame, neighbour_frame

MAC = bytes.fromhex("fa163e000001")


def test_gratuitous_arp_asks_everybody_for_its_own_address() -> None:
    frame = arp_frame(MAC, "10.0.0.1")
    assert frame.hex(" ") == (
        "ff ff ff ff ff ff fa 16 3e 00 00 01 08 06 00 01 08 00 06 04 00 01 "
        "fa 16 3e 00 00 01 0a 00 00 01 00 00 00 00 00 00 0a 00 00 01"
    )


def test_neighbour_advertisement_overrides_and_its_checksum_is_right() -> None:
    frame = neighbour_frame(MAC, "2001:db8::1", router=True)
    assert frame[:14].hex() == "333300000001" + MAC.hex() + "86dd"
    header, message = frame[14:54], frame[54:]
    assert (header[6], header[7]) == (58, 255)
    assert (message[0], message[1], message[4]) == (136, 0, 0xA0)
    assert message[24:].hex() == "0201" + MAC.hex()
    words = header[8:] + struct.pack("!II", len(message), 58) + message
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    assert total % 0xFFFF == 0, "the ones' complement sum over header and message is all ones"
    assert neighbour_frame(MAC, "2001:db8::1", router=False)[58] == 0x20
