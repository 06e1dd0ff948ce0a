"""Adds `--worker` and `--http-protocols` to `plain server`.

Plain imports the `cli` module of every installed package before it parses the options of
a command, so importing this one is what installs the options.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import click
from click.core import ParameterSource
from plain.exceptions import ImproperlyConfigured
from plain.logs import get_framework_logger

from .app.plain_internals import SettingOption, arbiter_replaced, server_command
from .config import WORKERS, Config, unknown_worker
from .patches import workarounds
from .patching.standard_streams import open_standard_streams

HTTP2_NEEDS_TLS = (
    "HTTP/2 alone was asked for (--http-protocols, SERVER_HTTP_PROTOCOLS), and it needs TLS: give "
    "--certfile and --keyfile, or let h1 be served, too."
)


class WorkerChoice(click.Choice[str]):
    """`click.Choice` that names the setting if that is where a bad value came from."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as exc:
            if ctx is None or ctx.get_parameter_source("worker") == ParameterSource.COMMANDLINE:
                raise
            raise click.ClickException(unknown_worker(value)) from exc


def _serve_with_gevent(
    serve: Callable[..., None], options: dict[str, Any], http_protocols: str | None
) -> None:
    """Check what can be checked now, then let Plain start its server with our arbiter."""
    open_standard_streams()

    from plain.runtime import settings

    from .process import standard_output as output
    from .process.arbiter import GeventArbiter

    protocols = _check(settings, options, http_protocols)
    _warn_of_threads(settings)
    output.install()
    make_arbiter = partial(
        GeventArbiter,
        worker_main=_worker_main,
        http_protocols=http_protocols,
        protocols=protocols,
    )
    with arbiter_replaced(make_arbiter):
        serve(**options)


def _worker_main(*args: Any) -> None:
    """The target of worker processes: the arbiter's own does without gevent and HTTP/2."""
    from .worker import worker_main

    worker_main(*args)


def _check(settings: Any, options: dict[str, Any], http_protocols: str | None) -> tuple[str, ...]:
    """Refuse, in one line, what no worker would start with. Returns the protocols."""
    from .net.tls_context import server_context
    from .process.compatibility import patched_late

    try:
        protocols = Config.load(settings, http_protocols).protocols
        if options["certfile"] or options["keyfile"]:
            server_context(options["certfile"], options["keyfile"], protocols)
        elif "http/1.1" not in protocols:
            raise ImproperlyConfigured(HTTP2_NEEDS_TLS)
    except ImproperlyConfigured as exc:
        raise click.ClickException(str(exc)) from exc
    if found := patched_late(settings):
        raise click.ClickException(found.fix)
    return protocols


def _warn_of_threads(settings: Any) -> None:
    source = click.get_current_context().get_parameter_source("threads")
    # `plain dev` passes it by itself.
    asked = source == ParameterSource.COMMANDLINE and os.environ.get("PLAIN_ENV") != "dev"
    chosen = dict(settings.get_settings())["SERVER_THREADS"].source != "default"
    if asked or chosen:
        get_framework_logger("plain.server").warning(
            "SERVER_THREADS (--threads) has no effect with the gevent-h2 worker: "
            "every stream has a greenlet of its own"
        )


def _what_is_patched() -> str:
    listed = "".join(f"\n  - {workaround}" for workaround in workarounds())
    return (
        "\b\nA gevent-h2 worker starts with gevent's monkey.patch_all(). Its workarounds then:"
        f"{listed}\nIt also calls the app's own patch, if SERVER_GEVENT_PATCH names one."
    )


def install(command: click.Command) -> None:
    """Give `command` (`plain server`) the options of this package."""
    serve = command.callback
    assert serve is not None

    def run(worker: str, http_protocols: str | None, **options: Any) -> None:
        if worker == "gevent-h2":
            _serve_with_gevent(serve, options, http_protocols)
        elif http_protocols is not None:
            raise click.UsageError("--http-protocols needs --worker gevent-h2.")
        else:
            serve(**options)

    command.params += [
        SettingOption(
            ["--worker"],
            setting="SERVER_WORKER",
            type=WorkerChoice(WORKERS),
            help="Kind of worker: Plain's own (asyncio), or gevent with a greenlet per stream",
        ),
        click.Option(
            ["--http-protocols"],
            metavar="LIST",
            help="Protocols offered by the gevent-h2 worker, most wanted first: h2,h1 or h2 or h1"
            "  [setting: SERVER_HTTP_PROTOCOLS]",
        ),
    ]
    command.epilog = _what_is_patched()
    command.callback = run


install(server_command)
