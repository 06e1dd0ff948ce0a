"""How the shop was served: `gunicorn shop:app`, which reads this file."""

import os

bind = os.environ["BIND"]
certfile = os.environ["CERTFILE"]
keyfile = os.environ["KEYFILE"]
worker_class = "gevent"
workers = 1
worker_connections = 500
timeout = 20
graceful_timeout = 10
keepalive = 5
max_requests = 0
accesslog = "-"
limit_request_line = 4094


def note(line):
    """Stands for what hooks do: metrics, service discovery, caches."""
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{line}\n")


def post_worker_init(worker):
    note("worker ready")


def pre_request(worker, req):
    note(f"request {req.method} {req.path}")


def post_request(worker, req, environ, resp):
    note(f"response {resp.status_code}")


def worker_exit(server, worker):
    note("worker exit")
