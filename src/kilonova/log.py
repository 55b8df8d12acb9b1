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

_SECRET = re.compile(
    r"""((?:password|secret|x-auth-token|x-subject-token|adminPass|user_data|token)["']?\s*[:=]\s*["']?)[^\s"',}]+""",
    re.IGNORECASE,
)


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.request_id = request_id.get()
        return _SECRET.sub(r"\1***", super().format(record))


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
