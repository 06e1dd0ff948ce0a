SECRET_KEY = "only-for-this-example"
URLS_ROUTER = "app.urls.AppRouter"

# The worker is all it takes: the views stay as they are.
INSTALLED_PACKAGES = ["plain_gevent_h2"]
SERVER_WORKER = "gevent-h2"

# One process, to show how far one goes. 0 (the default) starts one for each CPU.
SERVER_WORKERS = 1

SERVER_MAX_REQUEST_BODY_SIZE = 100 * 1024 * 1024
SERVER_ACCESS_LOG_FIELDS = ["method", "url", "status", "duration_ms", "protocol"]
