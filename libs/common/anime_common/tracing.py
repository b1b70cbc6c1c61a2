"""OpenTelemetry traces that cross the bus; off unless an exporter is configured.

The W3C trace context (https://www.w3.org/TR/trace-context/) travels in the `traceparent` header of stored messages and
in the outbox, so one trace follows a job from the HTTP request to the filed picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("anime")


def configure_tracing(service: str, endpoint: str | None) -> None:
    """Make spans real, and export them when an OTLP/HTTP endpoint is given."""
    provider = TracerProvider(resource=Resource.create({"service.name": f"anime-{service}"}))
    if endpoint:
        # Half a second of imports that only an exporter needs.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    trace.set_tracer_provider(provider)


def current_traceparent() -> str | None:
    """The `traceparent` of the running span, if there is one."""
    if not trace.get_current_span().get_span_context().is_valid:
        return None
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent")


def current_trace_id() -> str | None:
    """The id of the running span's trace, as logs and trace viewers show it, if there is one."""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else None


@contextmanager
def span(
    name: str, *, traceparent: str | None = None, kind: SpanKind = SpanKind.INTERNAL, **attributes: str
) -> Iterator[None]:
    """A span around a block, under the remote parent when one is given; an exception marks it as an error."""
    context = _PROPAGATOR.extract({"traceparent": traceparent}) if traceparent else None
    with _tracer.start_as_current_span(name, context=context, kind=kind, attributes=attributes) as running:
        try:
            yield
        except Exception as error:
            running.set_status(Status(StatusCode.ERROR, str(error)))
            raise
