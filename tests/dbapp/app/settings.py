SECRET_KEY = "only-for-tests"
URLS_ROUTER = "app.urls.AppRouter"
INSTALLED_PACKAGES = [
    "plain.postgres",
    "plain.sessions",
    "plain.auth",
    "plain.passwords",
    "plain.cache",
    "plain.templates",
    "plain.jobs",
    "plain_gevent_h2",
    "app.users",
    "app.notes",
]
MIDDLEWARE = [
    "plain.postgres.DatabaseConnectionMiddleware",
    "plain.sessions.middleware.SessionMiddleware",
    "plain.auth.middleware.AuthMiddleware",
]
PASSWORD_HASHERS = ["app.users.hashers.FewIterations"]
AUTH_LOGIN_URL = "login"
HTTPS_REDIRECT_ENABLED = False
CSRF_EXEMPT_PATHS = [".*"]
SERVER_WORKERS = 1
SERVER_MAX_REQUESTS = 0
