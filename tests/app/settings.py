import os

SECRET_KEY = "only-for-tests"
URLS_ROUTER = "app.urls.AppRouter"
INSTALLED_PACKAGES = ["plain_gevent_h2"]
MIDDLEWARE = ["app.middleware.TestMiddleware"]
HTTPS_REDIRECT_ENABLED = False
CSRF_EXEMPT_PATHS = [".*"]
SERVER_WORKERS = 1
# Tests ask for recycling where they mean it.
SERVER_MAX_REQUESTS = int(os.environ.get("TEST_MAX_REQUESTS", "0"))
SERVER_MAX_REQUESTS_JITTER = 0
DATA_UPLOAD_MAX_MEMORY_SIZE = 100 * 1024 * 1024

if _spans := os.environ.get("TEST_SPANS"):
    from app import telemetry

    telemetry.set_up(_spans)
