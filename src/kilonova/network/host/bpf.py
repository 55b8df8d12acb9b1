"""The bpf system call (linux/bpf.h): what little of it VLAN devices by tc need. Programs are lists of instructions.

A program loaded here lives as long as something holds it: the filter it is attached by. Its map lives with it, and both
are found again by the program's number, which the filter tells.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence
from typing import NamedTuple

from kilonova.errors import CommandFailed, NotSupported

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _PROGRAM_LOAD = 0, 1, 2, 5
_PROGRAM_BY_ID, _MAP_BY_ID, _INFO = 13, 14, 15
_ARRAY, _CLASSIFIER = 2, 3
_ATTRIBUTES = 128
_INFO_SIZE = 128
_MAP_COUNT_AT = 52
_LOG_SIZE = 1 << 16
_UNKNOWN = (1, 38)
"""EPERM: not in this container; ENOSYS: not in this kernel."""
_libc = ctypes.CDLL(None, use_errno=True)


class Instruction(NamedTuple):
    operation: int
    target: int
    source: int
    offset: int
    value: int


class Array:
    """A map of numbers by index, both of 32 bits; what was never set is 0."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __enter__(self) -> Array:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.descriptor)

    def get(self, index: int) -> int:
        value = ctypes.c_uint32()
        self._element(_MAP_LOOKUP, index, value)
        return value.value

    def set(self, index: int, number: int) -> None:
        self._element(_MAP_UPDATE, index, ctypes.c_uint32(number))

    def _element(self, command: int, index: int, value: ctypes.c_uint32) -> None:
        key = ctypes.c_uint32(index)
        attributes = struct.pack("=I4xQQQ", self.descriptor, ctypes.addressof(key), ctypes.addressof(value), 0)
        _bpf(command, attributes, f"element {index} of a map")


def new_array(name: str, size: int) -> Array:
    return Array(
        _bpf(_MAP_CREATE, struct.pack("=IIIIIII16s", _ARRAY, 4, 4, size, 0, 0, 0, name.encode()), f"map {name}")
    )


def load_classifier(name: str, program: Sequence[Instruction]) -> int:
    """A descriptor of the program, for a tc filter. Raises `NotSupported` where programs may not be loaded."""
    code = ctypes.create_string_buffer(
        b"".join(
            struct.pack("=BBhi", item.operation, item.target | item.source << 4, item.offset, item.value)
            for item in program
        )
    )
    licence, words = ctypes.create_string_buffer(b"GPL"), ctypes.create_string_buffer(_LOG_SIZE)

    def attributes(level: int) -> bytes:
        log = (level, _LOG_SIZE, ctypes.addressof(words)) if level else (0, 0, 0)
        addresses = (ctypes.addressof(code), ctypes.addressof(licence))
        return struct.pack("=IIQQIIQII16s", _CLASSIFIER, len(program), *addresses, *log, 0, 0, name.encode())

    try:
        return _bpf(_PROGRAM_LOAD, attributes(0), f"program {name}")
    except CommandFailed as error:
        if not isinstance(error, NotSupported):
            try:
                return _bpf(_PROGRAM_LOAD, attributes(1), f"program {name}")
            except CommandFailed:
                last = words.value.decode(errors="replace").strip().splitlines()[-3:]
                raise CommandFailed(f"{error}: {' / '.join(last)}") from error
        raise


def array_of(program_id: int) -> Array:
    """The one map that an attached program has."""
    program = _bpf(_PROGRAM_BY_ID, struct.pack("=III", program_id, 0, 0), f"program {program_id}")
    try:
        number = ctypes.c_uint32()
        info = ctypes.create_string_buffer(_INFO_SIZE)
        struct.pack_into("=IQ", info, _MAP_COUNT_AT, 1, ctypes.addressof(number))
        request = struct.pack("=IIQ", program, _INFO_SIZE, ctypes.addressof(info))
        _bpf(_INFO, request, f"program {program_id}")
        return Array(_bpf(_MAP_BY_ID, struct.pack("=III", number.value, 0, 0), f"map of program {program_id}"))
    finally:
        os.close(program)


def _bpf(command: int, attributes: bytes, what: str) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise NotSupported(f"bpf, {what}: the number of the system call on {platform.machine()} is not known here")
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES)
    result = int(_libc.syscall(number, command, buffer, _ATTRIBUTES))
    if result < 0:
        error = ctypes.get_errno()
        kind = NotSupported if error in _UNKNOWN else CommandFailed
        raise kind(f"bpf, {what}: {os.strerror(error)}")
    return result
