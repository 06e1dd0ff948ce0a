"""What gunicorn.conf.py said, and where it is now."""

SECRET_KEY = "only-for-tests"
URLS_ROUTER = "app.urls.AppRouter"
INSTALLED_PACKAGES = ["plain_gevent_h2", "app"]
MIDDLEWARE = ["app.middleware.Notes", "app.middleware.Visitor"]

SERVER_WORKER = "gevent-h2"  # worker_class = "gevent"
SERVER_WORKERS = 1  # workers
SERVER_CONNECTIONS = 500  # worker_connections
SERVER_TIMEOUT = 20  # timeout
SERVER_GRACEFUL_TIMEOUT = 10  # graceful_timeout
SERVER_KEEPALIVE_TIMEOUT = 5  # keepalive
SERVER_MAX_REQUESTS = 0  # max_requests
