"""What a locust user calls: requests, their responses, and what locust is told of them."""

import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack, cast
from urllib.parse import urlencode, urlsplit

from gevent import GreenletExit

from .connection import Fields, RequestError, Stream, UnprocessedError
from .events import Event, events_of, lines_of
from .pool import Pool

#: A request that the server left unprocessed is sent so often in all.
ATTEMPTS = 4

Body = bytes | str | Mapping[str, Any] | Iterable[bytes]
#: By the field's name: the file's name, its content, and its type.
Files = Mapping[str, tuple[str, bytes, str]]

#: Fields that belong to one HTTP/1.1 connection (RFC 9113 section 8.2.2), or that we send.
_NOT_SENT = frozenset(("connection", "host", "transfer-encoding", "upgrade", "content-length"))


class StreamOptions(TypedDict, total=False):
    """What a request may say beside its method and path. `name` is for locust's statistics."""

    name: str
    data: Body
    json: Any
    headers: Mapping[str, str]
    timeout: float


class RequestOptions(StreamOptions, total=False):
    files: Files
    catch_response: bool


class BaseResponse:
    """The head of a response, and what is to be told to locust of the request."""

    def __init__(self, client: "Http2Client", method: str, url: str, name: str | None) -> None:
        self._client = client
        self._method = method
        self._name = name or url
        self._started = time.perf_counter()
        self._start_time = time.time()
        self._verdict: str | None = None  # failure(), or success() if empty
        self.url = url
        self.status_code = 0
        self.headers: dict[str, str] = {}
        self.error: Exception | None = None
        #: Seconds from the call to the first byte of the response, and to its end.
        self.ttfb: float | None = None
        self.elapsed = 0.0

    @property
    def ok(self) -> bool:
        return self.error is None

    def failure(self, reason: str) -> None:
        """Have locust count this request as failed."""
        self._verdict = reason

    def success(self) -> None:
        """Have locust count this request as a success, whatever its status is."""
        self._verdict = ""

    def _take_head(self, stream: Stream) -> None:
        self.status_code = stream.status
        self.headers = headers_of(stream.fields)
        self.ttfb = stream.headers_at - self._started
        self._client.report_ttfb(self._method, self._name, self.ttfb * 1000)
        self._client.keep_cookies(stream.fields)
        if self.status_code >= 400:
            self.error = RequestError(f"status {self.status_code}")

    def _end(self) -> None:
        self.elapsed = time.perf_counter() - self._started

    def _report(self, size: int) -> None:
        if self._verdict is not None:
            self.error = RequestError(self._verdict) if self._verdict else None
        self._client.report(
            request_type=self._method,
            name=self._name,
            response_time=self.elapsed * 1000,
            response_length=size,
            response=self,
            exception=self.error,
            start_time=self._start_time,
            url=self._client.base_url + self.url,
        )


class Response(BaseResponse):
    """A whole response. With `catch_response=True` it is reported at the end of its `with`."""

    content = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if isinstance(exc, Exception):
            self.failure(repr(exc))
        if exc is None or isinstance(exc, Exception):
            self._report(len(self.content))

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.content)


class StreamResponse(BaseResponse):
    """A response that is read as it arrives, in a `with` block at whose end it is reported.

    To leave the block before the body's end cancels the stream, and is no failure. A
    `RequestError` ends the block and is reported.
    """

    _stream: Stream | None = None

    def __init__(
        self, client: "Http2Client", method: str, url: str, options: StreamOptions
    ) -> None:
        super().__init__(client, method, url, options.get("name"))
        self._timeout = options.get("timeout", client.timeout)
        self._request = client.compose(method, url, options)

    def __enter__(self) -> Self:
        try:
            deadline = time.monotonic() + self._timeout
            self._stream = self._client.send(*self._request, deadline, streaming=True)
            self._take_head(self._stream)
        except RequestError as exc:
            self.error = exc
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> bool:
        size = 0
        if self._stream is not None:
            size = self._stream.size
            self._stream.close()
        if exc is not None and not isinstance(exc, Exception):
            return False  # locust stops the user
        if isinstance(exc, RequestError):
            self.error = exc
        elif exc is not None:
            self.failure(repr(exc))
        self._end()
        self._report(size)
        return isinstance(exc, RequestError)

    def iter_bytes(self) -> Iterator[bytes]:
        if self._stream is None:
            raise self.error or RequestError("no response")
        while chunk := self._stream.read(time.monotonic() + self._timeout):
            yield chunk

    def iter_lines(self) -> Iterator[str]:
        return lines_of(self.iter_bytes())

    def events(self) -> Iterator[Event]:
        """The events of a `text/event-stream`, each as soon as it is whole."""
        return events_of(self.iter_lines())


class Http2Client:
    """HTTP/2 requests to one server, each reported to locust.

    `report` is called with what locust's `request` event is fired with, `report_ttfb` with the
    method, the name and the milliseconds until the response began. Cookies are kept, whatever
    their path; redirects are not followed.
    """

    def __init__(
        self,
        base_url: str,
        pool: Pool,
        report: Callable[..., None],
        report_ttfb: Callable[[str, str, float], None],
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.timeout = 30.0
        self.headers: dict[str, str] = {}  # of every request, by lower-case name
        self.cookies: dict[str, str] = {}
        self._authority = urlsplit(base_url).netloc
        self._pool = pool
        pool.join()
        self._report = report
        self.report_ttfb = report_ttfb
        self._closed = False

    def close(self) -> None:
        """What is still under way is given up, and reported to nobody."""
        if not self._closed:
            self._closed = True
            self._pool.leave()

    def report(self, **about: Any) -> None:
        if self._closed and about["exception"] is not None:
            raise GreenletExit  # it failed since the user was stopped
        self._report(**about)

    # -- requests ----------------------------------------------------------------

    def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> Response:
        """Send a request and wait for the whole response, at most `timeout` seconds.

        `url` is a path of the user's host. Errors are no exceptions: they are reported to
        locust, and in `response.error`. A status from 400 on is one of them.
        """
        response = Response(self, method, url, options.get("name"))
        deadline = time.monotonic() + options.get("timeout", self.timeout)
        size = 0
        fields, body = self.compose(method, url, options)
        try:
            stream = self.send(fields, body, deadline, streaming=False)
            try:
                response._take_head(stream)
                response.content = stream.read_all(deadline)
            finally:
                size = stream.size
                stream.close()
        except RequestError as exc:
            response.error = exc
        response._end()
        if not options.get("catch_response"):
            response._report(size)
        return response

    def get(self, url: str, **options: Unpack[RequestOptions]) -> Response:
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Unpack[RequestOptions]) -> Response:
        return self.request("HEAD", url, **options)

    def options(self, url: str, **options: Unpack[RequestOptions]) -> Response:
        return self.request("OPTIONS", url, **options)

    def delete(self, url: str, **options: Unpack[RequestOptions]) -> Response:
        return self.request("DELETE", url, **options)

    def post(self, url: str, **options: Unpack[RequestOptions]) -> Response:
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Unpack[RequestOptions]) -> Response:
        return self.request("PUT", url, **options)

    def patch(self, url: str, **options: Unpack[RequestOptions]) -> Response:
        return self.request("PATCH", url, **options)

    def stream(self, method: str, url: str, **options: Unpack[StreamOptions]) -> StreamResponse:
        """The response piece by piece: `with client.stream("GET", "/news") as response: ...`.

        `timeout` is for each piece.
        """
        return StreamResponse(self, method, url, options)

    # -- how ---------------------------------------------------------------------

    def send(
        self, fields: Fields, body: Iterable[bytes] | None, deadline: float, *, streaming: bool
    ) -> Stream:
        """Start a request and send all of it; again if the server left it unprocessed."""
        repeatable = not isinstance(body, Iterator)
        for attempt in range(1, ATTEMPTS + 1):
            connection = self._pool.connection(deadline)
            try:
                stream = connection.open(
                    fields, body=body is not None, streaming=streaming, deadline=deadline
                )
            except UnprocessedError:
                continue
            try:
                if body is not None:
                    connection.send_body(stream, body, deadline)
                stream.wait_headers(deadline)
            except UnprocessedError:
                if attempt == ATTEMPTS or not repeatable:
                    raise
            except BaseException:
                stream.close()
                raise
            else:
                return stream
        raise UnprocessedError("the server takes no request")

    def compose(
        self, method: str, url: str, options: StreamOptions | RequestOptions
    ) -> tuple[Fields, Iterable[bytes] | None]:
        """The header fields and the body."""
        body, content_type = encode_body(options)
        own = {"user-agent": "plain-gevent-h2-load", "accept": "*/*"}
        if content_type:
            own["content-type"] = content_type
        own.update(self.headers)
        own.update({name.lower(): value for name, value in options.get("headers", {}).items()})
        if self.cookies:
            own["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        fields = [
            (":method", method),
            (":scheme", "https"),
            (":authority", self._authority),
            (":path", url),
            *((name, value) for name, value in own.items() if name not in _NOT_SENT),
        ]
        if isinstance(body, bytes):
            fields.append(("content-length", str(len(body))))
            return fields, (body,) if body else ()
        return fields, body

    def keep_cookies(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        for name, value in fields:
            if name == b"set-cookie":
                cookie, _, attributes = value.decode("latin-1").partition(";")
                key, _, content = cookie.strip().partition("=")
                if "max-age=0" in attributes.lower().replace(" ", ""):
                    self.cookies.pop(key, None)
                else:
                    self.cookies[key] = content


def headers_of(fields: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """By lower-case name; what comes more than once is joined (RFC 9110 section 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if not name.startswith(":"):
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def encode_body(
    options: StreamOptions | RequestOptions,
) -> tuple[Iterable[bytes] | bytes | None, str | None]:
    """The body in bytes, or as it will come, and its type."""
    data, files = options.get("data"), cast(RequestOptions, options).get("files")
    if files is not None:
        if data is not None and not isinstance(data, Mapping):
            raise TypeError("beside files, data has to be a mapping")
        return multipart(data or {}, files)
    if "json" in options:
        return json.dumps(options["json"]).encode(), "application/json"
    if isinstance(data, Mapping):
        return urlencode(data).encode(), "application/x-www-form-urlencoded"
    if isinstance(data, str):
        return data.encode(), "text/plain; charset=utf-8"
    return data, "application/octet-stream" if data is not None else None


def multipart(data: Mapping[str, Any], files: Files) -> tuple[bytes, str]:
    """A form with files, as a browser sends it (RFC 7578)."""
    boundary = secrets.token_hex(16)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in data.items()
    ]
    for name, (filename, content, content_type) in files.items():
        head = (
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
            f"Content-Type: {content_type}\r\n\r\n"
        )
        parts += [head.encode(), content, b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"
