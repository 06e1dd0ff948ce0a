"""The settings this package adds. Plain's own `SERVER_*` settings keep their meaning."""

# Which kind of worker `plain server` starts: "asyncio" (Plain's own) or "gevent-h2".
SERVER_WORKER: str = "asyncio"

# The protocols offered in the TLS handshake (ALPN), most wanted first: "h2", "h1".
SERVER_HTTP_PROTOCOLS: str = "h2,h1"

# SETTINGS_INITIAL_WINDOW_SIZE: bytes of a request body that a client may send on one
# stream before the server has taken them in.
SERVER_H2_INITIAL_WINDOW_SIZE: int = 1048576

# SETTINGS_MAX_FRAME_SIZE: bytes, 16384 to 16777215.
SERVER_H2_MAX_FRAME_SIZE: int = 16384

# SETTINGS_MAX_HEADER_LIST_SIZE: bytes of a request's uncompressed header fields, each
# counted with 32 bytes on top. A request past it is answered with a 431.
SERVER_H2_MAX_HEADER_LIST_SIZE: int = 65536

# Requests after which an HTTP/2 connection is drained: two GOAWAYs, and no request lost. The
# client opens another.
SERVER_H2_MAX_REQUESTS_PER_CONNECTION: int = 100000

# Seconds that a client may take nothing of its response (less than 1 KiB) before the stream
# is reset with CANCEL, or the HTTP/1.1 connection closed.
SERVER_SEND_TIMEOUT: int = 60

# The most streams (HTTP/1.1 requests included) that run at once in one worker. More than
# these wait for a free slot.
SERVER_MAX_RUNNING_STREAMS: int = 10000

# Seconds that a view may take to return its response, 0 for no limit. Past them it is stopped
# where it waits, and its client gets a 503. A view's `request_deadline` goes before it.
SERVER_REQUEST_DEADLINE: int | float = 0

# Seconds for which a view may keep the whole worker to itself before the log says so, with
# its stack; 0 does not look.
SERVER_HUB_BLOCKED_SECONDS: int | float = 0.1

# The dotted path of a function of the app that patches what gevent and this package do not. A
# worker calls it once both have patched, before the app and its settings are imported.
SERVER_GEVENT_PATCH: str = ""
