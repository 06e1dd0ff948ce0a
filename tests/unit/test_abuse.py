"""A connection that is closed for abuse is told of once."""

import pytest

from plain_gevent_h2.net.abuse import report_abuse


def test_abuse_is_counted_and_logged_with_the_client(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counted: list[str] = []
    monkeypatch.setattr("plain_gevent_h2.net.metrics.connection_abusive", counted.append)
    with caplog.at_level("WARNING", "plain.server"):
        report_abuse(("127.0.0.1", 1), "too many PING frames")
    assert counted == ["too many PING frames"]
    (line,) = caplog.records
    assert line.getMessage() == "Connection closed for abuse"
    assert (line.client, line.error) == (("127.0.0.1", 1), "too many PING frames")  # type: ignore[attr-defined]
