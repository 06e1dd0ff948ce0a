"""What the locust files share: options, and the verdict on a run.

A run has passed if few enough requests failed, no task raised, and the 95th percentile of each
row in the `limits` of its users is low enough. locust's exit code says so: 0 or 1.
"""

import logging
from argparse import ArgumentParser
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

from locust import events
from locust.env import Environment
from locust.runners import WorkerRunner

from plain_gevent_h2.load import Http2User

logger = logging.getLogger(__name__)

#: A row of locust's statistics: its type and its name.
Row = tuple[str, str]


class LoadUser(Http2User):
    abstract = True

    #: The highest 95th percentile in milliseconds, by row.
    limits: ClassVar[dict[Row, float]] = {}

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        options: Any = environment.parsed_options
        self.ca_file = options.ca_file or self.ca_file
        self.verify = not options.no_verify


@events.init_command_line_parser.add_listener
def add_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("TLS and verdict")
    group.add_argument(
        "--ca-file", default="", help="certificates to trust in place of the system's"
    )
    group.add_argument(
        "--no-verify", action="store_true", help="do not check the server's certificate"
    )
    group.add_argument(
        "--max-failures",
        type=float,
        default=0.001,
        metavar="RATIO",
        help="the run fails if more of the requests do; default: 0.001",
    )
    group.add_argument(
        "--max-p95",
        type=float,
        default=0.0,
        metavar="MS",
        help="for every row that the file has a limit for, in place of that",
    )


@events.quitting.add_listener
def judge(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, WorkerRunner):
        environment.process_exit_code = 0  # the master judges
        return
    complaints = list(complaints_of(environment))
    environment.process_exit_code = 1 if complaints else 0
    # After locust's tables: the last lines are where people look.
    events.quit.add_listener(partial(tell, complaints))


def tell(complaints: list[str], **_: Any) -> None:
    for complaint in complaints:
        logger.error("FAILED: %s", complaint)
    if not complaints:
        logger.info("PASSED")


def complaints_of(environment: Environment) -> Iterator[str]:
    options: Any = environment.parsed_options
    total = environment.stats.total
    if total.fail_ratio > options.max_failures:
        share = f"{total.num_failures} of {total.num_requests} requests"
        yield f"{share} failed, more than {options.max_failures:.2%}"
    if environment.runner is not None and environment.runner.exceptions:
        yield "a task raised an exception"
    for (kind, name), limit in limits_of(environment).items():
        entry = environment.stats.get(name, kind)
        allowed = options.max_p95 or limit
        if not entry.num_requests:
            yield f"there was no {kind} {name}"
        elif (p95 := entry.get_response_time_percentile(0.95)) > allowed:
            yield f"p95 of {kind} {name} is {p95:g} ms, more than {allowed:g}"


def limits_of(environment: Environment) -> dict[Row, float]:
    return {
        row: limit
        for user in environment.user_classes
        for row, limit in getattr(user, "limits", {}).items()
    }
