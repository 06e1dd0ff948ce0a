"""Settings that are the same for every server of Plain's, so that only the server differs."""

import os

SECRET_KEY = "only-for-this-benchmark"
URLS_ROUTER = "app.urls.AppRouter"
INSTALLED_PACKAGES = ["plain_gevent_h2"]
HTTPS_REDIRECT_ENABLED = False
# The load generators send no Origin.
CSRF_EXEMPT_PATHS = [".*"]

SERVER_ACCESS_LOG = False
# A worker that retires in the middle of a run would be measured as a slow one.
SERVER_MAX_REQUESTS = 0

# Limits that protect a server on the open network, raised until no workload meets one.
SERVER_CONNECTIONS = 20_000
SERVER_H2_MAX_CONCURRENT_STREAMS = 1000
SERVER_H2_MAX_REQUESTS_PER_CONNECTION = 1_000_000_000
SERVER_MAX_RUNNING_STREAMS = 20_000
SERVER_MAX_REQUEST_BODY_SIZE = 256 * 1024 * 1024
SERVER_MAX_INFLIGHT_BODY_SIZE = None

if url := os.environ.get("BENCH_POSTGRES_URL"):
    INSTALLED_PACKAGES += ["plain.postgres", "app.shop"]
    MIDDLEWARE = ["plain.postgres.DatabaseConnectionMiddleware"]
    POSTGRES_URL = url
    POSTGRES_POOL_MAX_SIZE = 20
