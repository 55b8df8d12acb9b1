"""Where log lines go and how they look: time, level, module, request id, words; secrets are cut out."""

from __future__ import annotations

import logging
import re
import sys
from contextvars import ContextVar
from logging.handlers import RotatingFileHandler
from pathlib import Path

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The request being served by the present task; set by the API server and by bus handlers."""

_SECRETS = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), kept)
    for pattern, kept in (
        (r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:-----END|\Z)", r"\1***"),
        (r"""(["']token["']\s*:\s*\{\s*["']id["']\s*:\s*["'])[^"']+""", r"\1***"),
        (r"""(authorization\b["']?\s*[:=,]\s*(?:b?["'])?(?:(?:basic|bearer)\s+)?)[^\s"',}]+""", r"\1***"),
        (r"""(x-(?:auth|subject|service)-token\b["']\s*,\s*b?["'])[^"']+""", r"\1***"),  # raw headers: pairs of bytes
        (r"(--[\w-]*(?:password|secret|token)[ =])\S+", r"\1***"),
        (r"(\w://[^\s/:@]*:)[^\s/@]+(?=@)", r"\1***"),
        (
            r"""((?:password|passwd|secret|token|adminpass|user_data)["']?\s*[:=]\s*)"""
            r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s"',}&{]+)""",
            r"\1***",
        ),
    )
)
_CONTROL = {code: f"\\x{code:02x}" for code in range(32) if chr(code) != "\t"}


def redacted(line: str) -> str:
    """The line without passwords, tokens, keys and credentials in URLs."""
    for pattern, kept in _SECRETS:
        line = pattern.sub(kept, line)
    return line


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.request_id = request_id.get()
        return redacted(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        # What clients send cannot begin a line of its own; only a traceback has several lines.
        record.message = record.message.translate(_CONTROL)
        return super().formatMessage(record)


def setup(directory: Path | None, level: int = logging.INFO) -> None:
    """Log to `directory`/kilonova.log (rotated at 10 MiB, 5 kept), or to standard error when there is none."""
    handler: logging.Handler
    if directory is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        directory.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(directory / "kilonova.log", maxBytes=10 * 1024 * 1024, backupCount=5)
    handler.setFormatter(_Format("%(asctime)s %(levelname)s %(name)s %(request_id)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "httpcore", "qemu", "asyncio", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
