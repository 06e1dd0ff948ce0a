"""Load tests over HTTP/2 with locust: `pip install plain-gevent-h2[load]`, and docs/load.md."""

from .client import Http2Client, Response, StreamResponse
from .connection import RequestError
from .events import Event
from .user import Http2User

__all__ = ["Event", "Http2Client", "Http2User", "RequestError", "Response", "StreamResponse"]
