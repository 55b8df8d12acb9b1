"""nftables of the namespace the calling thread is in, by libnftables. The one module that talks nft.

A context belongs to the namespace of the thread that made it; each thread keeps its own. Commands are text (one
transaction per call), listings JSON. Where the library is missing the program `nft` does the same, slower.
"""

from __future__ import annotations

import ctypes
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kilonova.errors import CommandFailed
from kilonova.network.layout import MAP_MARK, Base, Chain, ElementKey, Layout, SetKey
from kilonova.network.rules import PASSING, PREFIX
from kilonova.process import run

_JSON = 1 << 4


class Nft:
    """A libnftables context; use it in the thread that made it."""

    def __init__(self) -> None:
        self._library = _library()
        self._context: int | None = None
        if self._library is not None:
            self._context = self._library.nft_ctx_new(0)
            self._library.nft_ctx_buffer_output(self._context)
            self._library.nft_ctx_buffer_error(self._context)

    def __enter__(self) -> Nft:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._library is not None and self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, commands: str) -> None:
        """All of the commands in one transaction, or none. Raises `CommandFailed` with what nft says."""
        self._command(commands, 0)

    def found(self) -> Layout:
        """The sets, chains and elements of this cloud's tables."""
        listing = json.loads(self._command("list ruleset", _JSON) or '{"nftables": []}')
        return parse(listing["nftables"])

    def _command(self, commands: str, flags: int) -> str:
        library = self._library
        if library is None:
            return run(["nft", *(["-j"] if flags & _JSON else []), "-f", "-"], stdin=commands)
        library.nft_ctx_output_set_flags(self._context, flags)
        failed = library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = library.nft_ctx_get_output_buffer(self._context) or b""
        if failed:
            error: bytes = library.nft_ctx_get_error_buffer(self._context) or b""
            raise CommandFailed(f"nft: {error.decode(errors='replace').strip()[:800]}")
        return output.decode()


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError:
        return None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    return library


def parse(objects: Sequence[Mapping[str, Any]]) -> Layout:
    """A JSON listing (libnftables-json(5)) as a layout; what is in other tables is left out."""
    sets: dict[SetKey, str] = {}
    elements: dict[ElementKey, str] = {}
    bases: dict[SetKey, Base] = {}
    digests: dict[SetKey, list[str]] = {}
    for item in objects:
        kind, body = next(iter(item.items()))
        table = body.get("table", "")
        if not table.startswith(PREFIX):
            continue
        if kind in ("set", "map"):
            key = SetKey(body["family"], table, body["name"])
            sets[key] = MAP_MARK if kind == "map" else ""
            if key in PASSING:
                continue
            types = body["type"] if isinstance(body["type"], list) else [body["type"]]
            for element in body.get("elem", ()):
                left, value = element if kind == "map" else (element, None)
                elements[ElementKey(key, _key_text(left, types))] = _value_text(value)
        elif kind == "chain":
            key = SetKey(body["family"], table, body["name"])
            digests.setdefault(key, [])
            if "hook" in body:
                place = f"{body['type']} {body['hook']} {body['prio']}"
                bases[key] = Base(place, body.get("policy", ""))
        elif kind == "rule":
            key = SetKey(body["family"], table, body["chain"])
            digests.setdefault(key, []).append(body.get("comment", "?"))
    chains = {key: Chain(tuple(found), base=bases.get(key, Base())) for key, found in digests.items()}
    return Layout(sets=sets, chains=chains, elements=elements)


def _key_text(element: Any, types: Sequence[str]) -> str:
    if isinstance(element, dict) and "elem" in element:
        element = element["elem"]["val"]
    parts = element["concat"] if isinstance(element, dict) and "concat" in element else [element]
    return " . ".join(_part_text(part, kind) for part, kind in zip(parts, types, strict=True))


def _part_text(part: Any, kind: str) -> str:
    if isinstance(part, dict) and "prefix" in part:
        return f"{part['prefix']['addr']}/{part['prefix']['len']}"
    if kind == "ifname":
        return f'"{part}"'
    if kind == "integer":
        return hex(int(part, 0) if isinstance(part, str) else part)
    return str(part)


def _value_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        for verb in ("goto", "jump"):
            if verb in value:
                return f"{verb} {value[verb]['target']}"
        return str(next(iter(value)))
    return str(value)
