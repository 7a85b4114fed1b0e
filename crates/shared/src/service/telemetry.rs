//! Logs, traces and metrics.

use std::{sync::OnceLock, time::Duration};

use anyhow::Context as _;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use opentelemetry::{
    SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceContextExt, TraceState, TracerProvider},
};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use serde::Deserialize;
use tracing::{Metadata, Span, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{ParseError, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// What is logged and where traces go.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Filter, as `RUST_LOG`, which wins when it is set.
    pub log: String,
    /// `json` for machines, `text` for people.
    pub format: LogFormat,
    /// OTLP endpoint (gRPC) for traces; none are sent when absent.
    pub otlp_endpoint: Option<String>,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { log: "info".to_owned(), format: LogFormat::Json, otlp_endpoint: None }
    }
}

/// Running telemetry; flush it before the process ends.
#[derive(Debug)]
#[must_use = "unflushed spans are lost"]
pub struct Telemetry {
    tracer: SdkTracerProvider,
}

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

pub(super) fn filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(text)
}

/// Starts logs, traces and metrics for this process.
pub fn init(name: &'static str, config: &TelemetryConfig) -> anyhow::Result<Telemetry> {
    let wanted =
        std::env::var("RUST_LOG").ok().filter(|v| !v.is_empty()).unwrap_or_else(|| config.log.clone());
    let filter = filter(&wanted).with_context(|| format!("log filter {wanted:?}"))?;
    let mut tracer =
        SdkTracerProvider::builder().with_resource(Resource::builder().with_service_name(name).build());
    if let Some(endpoint) = &config.otlp_endpoint {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(Duration::from_secs(5))
            .build()
            .context("OTLP exporter")?;
        tracer = tracer.with_batch_exporter(exporter);
    }
    // Without an exporter spans still get ids, so that trace contexts travel through outbox and broker.
    let tracer = tracer.build();
    let fmt = tracing_subscriber::fmt::layer().with_writer(std::io::stdout);
    let fmt = match config.format {
        LogFormat::Json => {
            fmt.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
        }
        LogFormat::Text => fmt.with_ansi(false).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(|metadata| permitted(metadata, cfg!(not(debug_assertions)))))
        .with(tracing_opentelemetry::layer().with_tracer(tracer.tracer("parapet")))
        .with(fmt)
        .try_init()
        .context("logging was started before")?;
    std::panic::set_hook(Box::new(log_panic));
    let handle = PrometheusBuilder::new()
        .set_buckets(&[0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0])?
        .install_recorder()
        .context("metrics")?;
    METRICS.get_or_init(|| handle);
    describe();
    metrics::gauge!("parapet_build_info", "service" => name, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(Telemetry { tracer })
}

impl Telemetry {
    /// Sends what is left, within five seconds.
    pub async fn flush(self) {
        let tracer = self.tracer;
        // The exporter blocks its thread while it waits for its own worker.
        let flushed =
            tokio::task::spawn_blocking(move || tracer.shutdown_with_timeout(Duration::from_secs(5))).await;
        if let Ok(Err(error)) = flushed {
            tracing::debug!(%error, "traces not flushed");
        }
    }
}

// A formatted panic message may hold a value, and a value may be a secret: only constants are shown.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("withheld");
    tracing::error!(location, message, "panic");
}

const CAPPED: [&str; 8] = ["lapin", "amq_protocol", "h2", "hyper", "rustls", "sqlx", "reqwest", "tonic"];

// INVARIANT (I8): lapin logs a returned message with its whole body; never, in any build, whatever is configured.
// In release builds the libraries that see our traffic log at INFO at most, whatever is configured.
fn permitted(metadata: &Metadata<'_>, release: bool) -> bool {
    let target = metadata.target();
    if target.starts_with("lapin::returned_messages") {
        return false;
    }
    let library = target.split("::").next().unwrap_or(target);
    let capped =
        CAPPED.iter().any(|c| library == *c || library.strip_prefix(c).is_some_and(|r| r.starts_with('_')));
    !(release && capped) || LevelFilter::from_level(*metadata.level()) <= LevelFilter::INFO
}

/// The metrics of this process in Prometheus' text format; empty when telemetry was not started.
pub(super) fn render_metrics() -> String {
    METRICS.get().map_or_else(String::new, |handle| {
        handle.run_upkeep();
        handle.render()
    })
}

fn describe() {
    metrics::describe_gauge!("parapet_build_info", "the version that runs");
    metrics::describe_gauge!("parapet_amqp_connected", "1 while a connection to the broker is established");
    metrics::describe_gauge!("parapet_amqp_blocked", "1 while the broker blocks publishing");
    metrics::describe_counter!(
        "parapet_amqp_reconnects_total",
        "broker sessions that ended and were rebuilt"
    );
    metrics::describe_gauge!("parapet_outbox_rows", "messages not sent yet, counted to 100,000");
    metrics::describe_gauge!("parapet_outbox_ready_seconds", "how long the oldest unsent message is ready");
    metrics::describe_counter!("parapet_outbox_sent_total", "messages a queue took");
    metrics::describe_counter!("parapet_outbox_failed_total", "publications that failed; the message stays");
    metrics::describe_gauge!("parapet_inbox_parked", "messages parked for an operator");
    metrics::describe_counter!("parapet_messages_total", "messages by topic and outcome");
    metrics::describe_histogram!("parapet_message_seconds", "time a handler took");
    metrics::describe_counter!(
        "parapet_batches_taken_apart_total",
        "batches that failed and were tried one by one"
    );
    metrics::describe_counter!("parapet_handler_panics_total", "handlers that panicked");
    metrics::describe_counter!("parapet_acks_lost_total", "acknowledgements lost with their channel");
    metrics::describe_counter!("parapet_work_dispatched_total", "waiting work given out");
    metrics::describe_gauge!(
        "parapet_work_ready_seconds",
        "how long the oldest work is due that waits for nothing but its turn"
    );
    metrics::describe_counter!("parapet_work_leases_expired_total", "work whose handler vanished");
}

/// The W3C trace context of the current span, for a message or a call; None outside any trace.
pub fn current_traceparent() -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid()
        .then(|| format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8()))
}

/// Links a span to the one a trace context names: what follows from a message is a trace of its own.
pub(crate) fn link_to(span: &Span, traceparent: Option<&str>) {
    if let Some(context) = traceparent.and_then(parse_traceparent) {
        span.add_link(context);
    }
}

fn parse_traceparent(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version != "00" || trace.len() != 32 || span.len() != 16 || parts.next().is_some() {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use tracing::{
        Level, Metadata, callsite::Callsite, field::FieldSet, metadata::Kind, subscriber::Interest,
    };

    use super::*;

    struct Site;
    static SITE: Site = Site;
    impl Callsite for Site {
        fn set_interest(&self, _: Interest) {}
        fn metadata(&self) -> &Metadata<'_> {
            unreachable!()
        }
    }

    fn allowed(target: &str, level: Level, release: bool) -> bool {
        let fields = FieldSet::new(&[], tracing::callsite::Identifier(&SITE));
        permitted(&Metadata::new("x", target, level, None, None, None, fields, Kind::EVENT), release)
    }

    #[test]
    fn returned_messages_are_logged_in_no_build() {
        assert!(!allowed("lapin::returned_messages", Level::WARN, true));
        assert!(!allowed("lapin::returned_messages", Level::ERROR, false));
    }

    #[test]
    fn libraries_that_see_traffic_are_capped_in_release_builds() {
        for target in [
            "lapin::channel",
            "h2::codec",
            "hyper_util::client",
            "rustls::conn",
            "sqlx::query",
            "hyper",
            "reqwest::connect",
            "tonic::transport",
        ] {
            assert!(!allowed(target, Level::TRACE, true), "{target}");
            assert!(!allowed(target, Level::DEBUG, true), "{target}");
            assert!(allowed(target, Level::INFO, true), "{target}");
            assert!(allowed(target, Level::TRACE, false), "{target}");
        }
        assert!(allowed("shared::relay", Level::DEBUG, true));
        assert!(allowed("h2o", Level::TRACE, true));
    }

    #[test]
    fn a_trace_context_is_read_back_and_nonsense_is_not() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = parse_traceparent(text).unwrap();
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        for bad in
            ["", "00-0-0-0", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", &format!("{text}-x")]
        {
            assert!(parse_traceparent(bad).is_none(), "{bad}");
        }
    }
}
