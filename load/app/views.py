"""One view for each kind of work that the benchmark asks of a server."""

import functools
import time

from plain.http import Response
from plain.views import View

#: Bytes that `Upload` takes in at once.
READ_SIZE = 64 * 1024


@functools.cache
def prebuilt(size: int) -> bytes:
    """`size` bytes, made once: building them is no part of what is measured."""
    return b"x" * size


def plain_text(body: bytes) -> Response:
    return Response(body, content_type="text/plain")


class Hello(View):
    """A small response, for the cost of a request itself."""

    def get(self) -> Response:
        return plain_text(b"Hello, world!")


class Sleep(View):
    """Waits `ms` milliseconds, as a view does that asks a database."""

    def get(self) -> Response:
        time.sleep(int(self.request.query_params.get("ms", "50")) / 1000)
        return plain_text(b"slept")


class Bytes(View):
    """A body of `n` bytes."""

    def get(self) -> Response:
        return plain_text(prebuilt(int(self.request.query_params["n"])))


class Login(View):
    """Checks a password as plain.passwords does, with its number of iterations or `iterations`."""

    def get(self) -> Response:
        from plain.passwords.hashers import PBKDF2PasswordHasher

        hasher = PBKDF2PasswordHasher()
        iterations = int(self.request.query_params.get("iterations", hasher.iterations))
        return plain_text(hasher.encode("correct horse", "salt", iterations).encode())


class Upload(View):
    """Reads the body to its end and answers with its length."""

    def post(self) -> Response:
        length = 0
        while part := self.request.read(READ_SIZE):
            length += len(part)
        return plain_text(b"%d" % length)
