"""A gevent worker for Plain: HTTP/2 over TLS, one greenlet per stream.

This module imports nothing: the first thing a worker process does is import
`plain_gevent_h2.patches`, and gevent's patch has to come before everything else.
"""

__all__: list[str] = []
