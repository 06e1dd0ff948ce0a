"""The settings of an HTTP/2 connection whose parts are tested without a worker."""

from plain_gevent_h2.config import Config

CONFIG = Config(
    protocols=("h2",),
    max_concurrent_streams=100,
    initial_window_size=2**20,
    max_frame_size=2**14,
    max_header_list_size=65536,
    max_requests_per_connection=1000,
    send_timeout=30,
    max_running_streams=100,
    request_deadline=0,
    hub_blocked_after=0,
)
