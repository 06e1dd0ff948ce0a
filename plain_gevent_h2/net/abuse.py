"""How a connection that is closed for abuse is counted and logged."""

from typing import Any

from plain.logs import get_framework_logger

from . import metrics

log = get_framework_logger("plain.server")


def report_abuse(client: Any, reason: str) -> None:
    """Count and log a connection that is closed for abuse. Called once for each."""
    metrics.connection_abusive(reason)
    log.warning("Connection closed for abuse", extra={"client": client, "error": reason})
