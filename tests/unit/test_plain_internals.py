"""Plain's private names are there, with the parameters that this package gives them.

A failure names the one that has changed, in milliseconds, before a server test fails for it.
"""

import pytest
from private_names import code_of, find

from plain_gevent_h2.app import plain_internals

IS_164 = plain_internals.ResponseLifecycle is None

#: Functions and classes by their parameters, without `self`.
PARAMETERS = {
    "plain.http.multipartparser.parse_header_parameters": "line",
    "plain.http.request.MediaType": "media_type_raw_line",
    "plain.http.websocket.WebSocket": (
        "transport subprotocol max_message_size ping_interval ping_timeout"
    ),
    "plain.http.websocket.is_websocket_upgrade": "request",
    "plain.http.websocket_frames.encode_frame": "opcode payload fin mask",
    "plain.http.websocket_frames.parse_close_payload": "payload",
    "plain.http.websocket_frames.read_frame": "recv max_payload require_mask",
    "plain.internal.handlers.base.BaseHandler._check_response": "response view_class",
    "plain.internal.handlers.base.BaseHandler._finish_pipeline": "request response ran_before",
    "plain.internal.handlers.base.BaseHandler._resolve_request": "request",
    "plain.internal.handlers.base.BaseHandler._run_sync_pipeline": "request",
    "plain.internal.handlers.base.BaseHandler._start_request_span": "request",
    "plain.internal.handlers.base._AsyncViewPending": "coroutine view_class ran_before",
    "plain.internal.handlers.base.response_for_exception": "request exc",
    "plain.internal.reloader.Reloader": "callback watch_html",
    "plain.internal.reloader.Reloader.run": "",
    "plain.logs.formatters.JSONFormatter.format": "record",
    "plain.logs.formatters.KeyValueFormatter._format_value": "value",
    "plain.logs.formatters.KeyValueFormatter.format": "record",
    "plain.logs.formatters._get_context": "record",
    "plain.server.accesslog.log_access": "resp req request_time",
    "plain.server.arbiter.Arbiter": "app",
    "plain.server.arbiter.Arbiter._halt": "reason exit_status graceful",
    "plain.server.arbiter.Arbiter._kill_workers": "sig",
    "plain.server.arbiter.Arbiter._spawn_worker": "",
    "plain.server.arbiter.Arbiter._start": "",
    "plain.server.arbiter.Arbiter._stop": "graceful",
    "plain.server.arbiter.Arbiter.reap_workers": "",
    "plain.server.arbiter.WorkerInfo": "process heartbeat age spawned_at aborted",
    "plain.server.connection.is_client_socket_noise": "exc",
    "plain.server.errors.HaltServer": "reason exit_status",
    "plain.server.http.errors.BodyBudgetExceeded": "limit",
    "plain.server.http.errors.LimitRequestBody": "size max_size",
    "plain.server.http.h1._drain_expired": "worker",
    "plain.server.http.h1._recv_timeout": "worker base",
    "plain.server.http.h1.extract_request_path": "header_data",
    "plain.server.http.h2._prepare_stream_request": "stream client server scheme",
    "plain.server.http.message.Request": "is_ssl header_data peer_addr req_number",
    "plain.server.http.message.Request.parse_headers": "data",
    "plain.server.http.message.Request.should_close": "",
    "plain.server.http.request._decode_path": "path_bytes",
    "plain.server.http.request.create_request": "req client server stream received ingest_seconds",
    "plain.server.http.response.Response": "req writer is_ssl",
    "plain.server.http.response.Response.async_close": "",
    "plain.server.http.response.Response.async_send_headers": "",
    "plain.server.http.response.Response.async_write": "arg",
    "plain.server.http.response.Response.force_close": "",
    "plain.server.http.response.Response.prepare_response": "http_response",
    "plain.server.http.response.Response.should_close": "",
    "plain.server.http.sink.BodyBudget": "limit",
    "plain.server.http.sink.BodyBudget.charge": "n",
    "plain.server.http.sink.BodyBudget.release": "n",
    "plain.server.http.sink.BodyRateFloor": "min_rate",
    "plain.server.http.sink.BodyRateFloor.record": "waited received",
    "plain.server.http.sink.BodyRateFloor.violated": "",
    "plain.server.http.sink.BodySink": "spool_size max_size budget",
    "plain.server.http.sink.BodySink.close": "",
    "plain.server.http.sink.BodySink.feed": "data",
    "plain.server.http.sink.BodySink.finish": "",
    "plain.server.util._error_response_bytes": "status_int reason mesg head",
    "plain.server.util.close_on_exec": "fd",
    "plain.server.util.seed": "",
    "plain.server.workers.entry.worker_main": "age listener_data app timeout heartbeat",
    "plain.server.workers.worker.Worker": "age ppid sockets app timeout heartbeat handler",
    "plain.server.workers.worker.Worker._begin_drain": "",
    "plain.server.workers.worker.Worker._count_request": "",
    "plain.server.workers.worker.Worker._handle_memory_signal": "",
    "plain.server.workers.worker.Worker.is_parent_alive": "",
    "plain.server.workers.worker.Worker.notify": "",
    "plain.server.workers.workertmp.WorkerHeartbeat.close": "",
    "plain.server.workers.workertmp.WorkerHeartbeat.kill_deadline": "",
    "plain.server.workers.workertmp.WorkerHeartbeat.last_update": "",
    "plain.utils.http._parseparam": "s",
    "plain.utils.module_loading.import_string": "dotted_path",
    "plain.http.request.MediaType.quality": "",
    "plain.http.request.Request.accepted_types": "",
    "plain.server.http.websocket.run_websocket": (
        f"{'ws_response' if IS_164 else 'lifecycle'} transport shutdown_wait close_timeout"
    ),
    "plain.server.http.h1.async_handle_error": (
        f"worker req conn exc{'' if IS_164 else ' logs_access'}"
    ),
}
if IS_164:
    PARAMETERS |= {"plain.internal.handlers.base.BaseHandler._finalize_span": "span response"}
else:
    LIFECYCLE = "plain.internal.handlers.response_lifecycle.ResponseLifecycle"
    PARAMETERS |= {
        "plain.internal.handlers.base.BaseHandler._fail_request_span": "span exc",
        "plain.internal.handlers.base.BaseHandler._response_lifecycle": (
            "response request request_context span started executor"
        ),
        f"{LIFECYCLE}._body_failed": "exc in_context",
        f"{LIFECYCLE}._finish": "",
    }

#: Attributes that a class's `__init__` sets, or that it has: those that are read or set here.
ATTRIBUTES = {
    "plain.http.websocket.WebSocket": (
        "_messages _max_message_size _receive_full _pong_received _activity _end _fail "
        "_send_close _write closed"
    ),
    "plain.server.arbiter.Arbiter": "_mp_context _workers _halt_error log app",
    "plain.server.http.h2.H2Request": "path headers",
    "plain.server.http.h2.H2Response": "status sent",
    "plain.server.http.message.Request": (
        "version path query uri headers must_close content_length"
    ),
    "plain.server.http.response.Response": (
        "status chunked omits_body response_length status_code sent"
    ),
    "plain.server.http.sink.BodyBudget": "limit used",
    "plain.server.http.sink.BodySink": "received spool_size spooled _file",
    "plain.server.workers.worker.Worker": (
        "age alive app body_max_memory_size body_min_rate booted drain_read_deadline handler "
        "healthcheck_path_bytes heartbeat keepalive_timeout log max_connections "
        "max_inflight_body max_request_body max_requests nr_conns pid reloader sockets"
    ),
}

#: Names in a module that this package replaces, or that only have to be there.
NAMES = {
    "plain.http.multipartparser": "parse_header_parameters",
    "plain.http.request": "codecs json MediaType Request",
    "plain.server.app": "Arbiter",
    "plain.server.http.websocket": "WebSocket",
    "plain.server.workers.boot_failure": "Reloader",
    "plain.server.workers.worker": "Reloader Worker DRAIN_TEARDOWN_MARGIN",
    "plain.utils.http": "_parseparam unquote",
}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameters(name: str) -> None:
    code = code_of(find(name))
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    assert " ".join(n for n in names if n != "self") == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(ATTRIBUTES))
def test_attributes(name: str) -> None:
    found = find(name)
    known = {n for kind in found.__mro__ for n in (*vars(kind), *set_by_init(kind))}
    assert set(ATTRIBUTES[name].split()) - known == set()


def set_by_init(kind: type) -> tuple[str, ...]:
    return code_of(kind).co_names if "__init__" in vars(kind) and kind is not object else ()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_names_in_modules(name: str) -> None:
    assert set(NAMES[name].split()) - set(vars(find(name))) == set()


def test_headers_are_stored_as_pairs_by_lower_case_name() -> None:
    response = plain_internals.Response(headers={"X-Name": "value"})
    assert plain_internals.stored_headers(response)["x-name"] == ("X-Name", "value")
