"""The ranges of the settings, and what becomes of them."""

from types import SimpleNamespace
from typing import Any

import pytest
from plain.exceptions import ImproperlyConfigured
from plain.runtime import global_settings

from plain_gevent_h2 import default_settings
from plain_gevent_h2.config import Config, parse_protocols, unknown_worker

#: Each setting with the least and the most that it may be; None for no limit. Written once more
#: here, so that a limit that is changed by mistake is noticed.
RANGES: dict[str, tuple[int, int | None]] = {
    "SERVER_CONNECTIONS": (1, None),
    "SERVER_TIMEOUT": (0, None),
    "SERVER_GRACEFUL_TIMEOUT": (0, None),
    "SERVER_KEEPALIVE_TIMEOUT": (1, None),
    "SERVER_MAX_REQUESTS": (0, None),
    "SERVER_MAX_REQUESTS_JITTER": (0, None),
    "SERVER_MAX_REQUEST_BODY_SIZE": (0, None),
    "SERVER_MAX_INFLIGHT_BODY_SIZE": (0, None),
    "SERVER_BODY_MAX_MEMORY_SIZE": (1, None),
    "SERVER_BODY_MIN_BYTES_PER_SECOND": (0, None),
    "SERVER_H2_MAX_CONCURRENT_STREAMS": (1, 2_147_483_647),
    "SERVER_H2_INITIAL_WINDOW_SIZE": (1, 2_147_483_647),
    "SERVER_H2_MAX_FRAME_SIZE": (16_384, 16_777_215),
    "SERVER_H2_MAX_HEADER_LIST_SIZE": (1024, 2_147_483_647),
    "SERVER_H2_MAX_REQUESTS_PER_CONNECTION": (1, None),
    "SERVER_SEND_TIMEOUT": (1, None),
    "SERVER_MAX_RUNNING_STREAMS": (1, None),
    "SERVER_REQUEST_DEADLINE": (0, None),
    "SERVER_HUB_BLOCKED_SECONDS": (0, None),
}


def settings(**values: object) -> Any:
    """The defaults of Plain and of this package, and these."""
    defaults = {**vars(global_settings), **vars(default_settings)}
    known = {name: value for name, value in defaults.items() if name.startswith("SERVER_")}
    return SimpleNamespace(**{**known, **values})


@pytest.mark.parametrize("name", RANGES)
def test_the_least_and_the_most_are_taken(name: str) -> None:
    least, most = RANGES[name]
    Config.load(settings(**{name: least}))
    Config.load(settings(**{name: 2**40 if most is None else most}))


@pytest.mark.parametrize("name", RANGES)
def test_what_is_less_or_more_is_refused(name: str) -> None:
    least, most = RANGES[name]
    outside = [least - 1] if most is None else [least - 1, most + 1]
    bound = f"at least {least}" if most is None else f"{least} to {most}"
    for value in outside:
        with pytest.raises(ImproperlyConfigured) as raised:
            Config.load(settings(**{name: value}))
        assert str(raised.value) == f"{name} must be {bound} (got {value})."


def test_no_limit_is_in_every_range() -> None:
    unlimited = {"SERVER_MAX_REQUEST_BODY_SIZE": None, "SERVER_MAX_INFLIGHT_BODY_SIZE": None}
    Config.load(settings(**unlimited))
    with pytest.raises(ImproperlyConfigured):  # the others are checked all the same
        Config.load(settings(**unlimited, SERVER_MAX_RUNNING_STREAMS=0))


def test_each_field_has_its_setting() -> None:
    names = {
        "max_concurrent_streams": "SERVER_H2_MAX_CONCURRENT_STREAMS",
        "initial_window_size": "SERVER_H2_INITIAL_WINDOW_SIZE",
        "max_frame_size": "SERVER_H2_MAX_FRAME_SIZE",
        "max_header_list_size": "SERVER_H2_MAX_HEADER_LIST_SIZE",
        "max_requests_per_connection": "SERVER_H2_MAX_REQUESTS_PER_CONNECTION",
        "send_timeout": "SERVER_SEND_TIMEOUT",
        "max_running_streams": "SERVER_MAX_RUNNING_STREAMS",
        "request_deadline": "SERVER_REQUEST_DEADLINE",
        "hub_blocked_after": "SERVER_HUB_BLOCKED_SECONDS",
    }
    values = {name: 20_000 + i for i, name in enumerate(names.values())}
    config = Config.load(settings(**values, SERVER_HTTP_PROTOCOLS="h2"))
    assert {field: getattr(config, field) for field in names} == {
        field: values[name] for field, name in names.items()
    }
    assert config.protocols == ("h2",)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("h2,h1", ("h2", "http/1.1")),
        ("h1,h2", ("http/1.1", "h2")),
        (" H2 ,, http/1.1", ("h2", "http/1.1")),
        ("h1,http/1.1,h1", ("http/1.1",)),
        ("h2", ("h2",)),
    ],
)
def test_protocols_keep_their_order(value: str, names: tuple[str, ...]) -> None:
    assert parse_protocols(value) == names


@pytest.mark.parametrize("value", ["", " , ", "h3", "h2,h3", "h2 h1"])
def test_protocols_that_are_unknown_or_missing(value: str) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        parse_protocols(value)
    wanted = "must be a comma-separated list of h2 and h1"
    assert str(raised.value) == f"SERVER_HTTP_PROTOCOLS {wanted} (got {value!r})."
    with pytest.raises(ImproperlyConfigured, match=f"^SERVER_HTTP_PROTOCOLS {wanted}"):
        Config.load(settings(SERVER_HTTP_PROTOCOLS=value))
    with pytest.raises(ImproperlyConfigured, match=f"^--http-protocols {wanted}"):
        Config.load(settings(SERVER_HTTP_PROTOCOLS="h2"), value)


def test_the_command_line_takes_precedence() -> None:
    assert Config.load(settings(SERVER_HTTP_PROTOCOLS="h3"), "h1").protocols == ("http/1.1",)


def test_an_unknown_worker_is_told_the_known_ones() -> None:
    assert unknown_worker("x") == "SERVER_WORKER must be 'asyncio' or 'gevent-h2' (got 'x')."
