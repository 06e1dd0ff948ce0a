"""Writes ended spans and the duration metric as lines of JSON, where TEST_SPANS names a file."""

import json
from collections.abc import Sequence

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

reader = InMemoryMetricReader()


class Lines(SpanExporter):
    def __init__(self, path: str) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with open(self._path, "a") as file:
            for span in spans:
                context, parent = span.get_span_context(), span.parent
                line = {
                    "name": span.name,
                    "kind": span.kind.name,
                    "status": span.status.status_code.name,
                    "id": context.span_id if context else None,
                    "parent": parent.span_id if parent else None,
                    "attributes": dict(span.attributes or {}),
                    "events": [event.name for event in span.events],
                }
                file.write(json.dumps(line) + "\n")
        return SpanExportResult.SUCCESS


def set_up(path: str) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Lines(path)))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))


def points(wanted: str) -> list[dict[str, object]]:
    """The points of a metric: attributes, and count or value."""
    data = reader.get_metrics_data()
    return [
        dict(point.attributes or {})
        | {key: getattr(point, key) for key in ("count", "value") if hasattr(point, key)}
        for resource in (data.resource_metrics if data else [])
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == wanted
        for point in metric.data.data_points
    ]
