//! Spans as an OpenTelemetry collector receives them: over HTTP, in the protocol's own encoding.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_model::NodeId;
use mesh_telemetry::{
    QUEUE_LEN_MAX, SHUTDOWN_TIMEOUT, SpanKind, SpanRecord, SpanStatus, Telemetry, TelemetrySettings, names,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, span, status};
use prost::Message;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// One post: its request line and headers in lower case, and its body.
struct Post {
    head: String,
    body: ExportTraceServiceRequest,
}

/// Listens, answers every post with `status`, and hands it to the test.
async fn collector(status: &'static str) -> (String, mpsc::Receiver<Post>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (posts_tx, posts_rx) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, status, posts_tx.clone()));
        }
    });
    (endpoint, posts_rx)
}

async fn serve(stream: TcpStream, status: &'static str, posts_tx: mpsc::Sender<Post>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let head = head.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let body = ExportTraceServiceRequest::decode(&body[..]).unwrap();
        posts_tx.send(Post { head, body }).await.unwrap();
    }
}

fn start(endpoint: &str) -> Telemetry {
    Telemetry::start(TelemetrySettings {
        otlp_endpoint: Some(endpoint.to_owned()),
        service_name: "deskmesh".into(),
        service_version: "1.2.3".into(),
        node: NodeId([0xab; 16]),
        node_name: "desk-1".into(),
    })
    .unwrap()
}

fn record(span_id: u64, parent_span_id: Option<u64>, kind: SpanKind) -> SpanRecord {
    SpanRecord {
        trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
        span_id,
        parent_span_id,
        name: "Quotes.Get".into(),
        kind,
        start_unix_nanos: 1_700_000_000_000_000_001,
        end_unix_nanos: 1_700_000_000_000_000_999,
        attributes: vec![],
        status: SpanStatus::Ok,
    }
}

fn values(attributes: &[KeyValue]) -> BTreeMap<&str, Value> {
    let value = |pair: &KeyValue| pair.value.clone().unwrap().value.unwrap();
    attributes.iter().map(|pair| (pair.key.as_str(), value(pair))).collect()
}

fn text(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}

#[tokio::test]
async fn the_collector_sees_what_was_recorded() {
    let (endpoint, mut posts_rx) = collector("200 OK").await;
    let telemetry = start(&endpoint);
    telemetry.export(SpanRecord {
        attributes: vec![
            (names::RPC_METHOD, "Quotes.Get".into()),
            (names::MESH_HOP, names::hop::INGRESS.into()),
            ("number", 7i64.into()),
            ("share", 0.5.into()),
            ("yes", true.into()),
            ("owned", String::from("text").into()),
        ],
        ..record(1, None, SpanKind::Server)
    });
    telemetry.export(record(2, Some(1), SpanKind::Client));
    telemetry.export(SpanRecord {
        status: SpanStatus::Error("deadline".into()),
        ..record(u64::MAX, Some(2), SpanKind::Server)
    });
    telemetry.export(record(4, Some(1), SpanKind::Producer));
    telemetry.export(record(5, Some(4), SpanKind::Consumer));
    telemetry.export(record(6, None, SpanKind::Internal));
    let shared = telemetry.clone();
    telemetry.shutdown().await;
    assert_eq!(shared.dropped(), 0);

    let post = posts_rx.try_recv().ok().unwrap();
    assert!(posts_rx.try_recv().is_err(), "one batch");
    assert!(post.head.starts_with("post /v1/traces http/1.1\r\n"), "{}", post.head);
    assert!(post.head.contains("content-type: application/x-protobuf\r\n"), "{}", post.head);

    let [node] = &post.body.resource_spans[..] else { panic!("one resource") };
    let resource = values(&node.resource.as_ref().unwrap().attributes);
    let expected = [
        ("service.name", text("deskmesh")),
        ("service.version", text("1.2.3")),
        ("service.instance.id", text(&"ab".repeat(16))),
        ("host.name", text("desk-1")),
    ];
    assert_eq!(resource, BTreeMap::from(expected));
    let [scope] = &node.scope_spans[..] else { panic!("one scope") };
    assert_eq!(scope.scope.as_ref().unwrap().name, "deskmesh");

    let spans = &scope.spans;
    let trace_id = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
    for span in spans {
        assert_eq!(span.trace_id, trace_id);
        assert_eq!(span.name, "Quotes.Get");
        assert_eq!(span.start_time_unix_nano, 1_700_000_000_000_000_001);
        assert_eq!(span.end_time_unix_nano, 1_700_000_000_000_000_999);
        assert_eq!(span.flags & 1, 1, "sampled");
    }
    let shape = |span: &Span| (span.span_id.clone(), span.parent_span_id.clone(), span.kind());
    let id = |id: u64| id.to_be_bytes().to_vec();
    let expected = vec![
        (id(1), vec![], span::SpanKind::Server),
        (id(2), id(1), span::SpanKind::Client),
        (id(u64::MAX), id(2), span::SpanKind::Server),
        (id(4), id(1), span::SpanKind::Producer),
        (id(5), id(4), span::SpanKind::Consumer),
        (id(6), vec![], span::SpanKind::Internal),
    ];
    assert_eq!(spans.iter().map(shape).collect::<Vec<_>>(), expected);
    let expected = [
        ("rpc.method", text("Quotes.Get")),
        ("mesh.hop", text("ingress")),
        ("number", Value::IntValue(7)),
        ("share", Value::DoubleValue(0.5)),
        ("yes", Value::BoolValue(true)),
        ("owned", text("text")),
    ];
    assert_eq!(values(&spans[0].attributes), BTreeMap::from(expected));
    let failed = spans[2].status.clone().unwrap();
    assert_eq!((failed.code(), failed.message.as_str()), (status::StatusCode::Error, "deadline"));
    assert_eq!(spans[1].status.clone().unwrap_or_default().code(), status::StatusCode::Unset);
}

#[tokio::test]
async fn spans_arrive_without_a_shutdown() {
    let (endpoint, mut posts_rx) = collector("200 OK").await;
    let telemetry = start(&format!("{endpoint}/team/"));
    telemetry.export(record(1, None, SpanKind::Server));
    let post = tokio::time::timeout(Duration::from_secs(10), posts_rx.recv()).await.unwrap().unwrap();
    assert!(post.head.starts_with("post /team/v1/traces "), "{}", post.head);
}

/// Exports `count` spans to a collector that takes none, and returns how many were counted lost.
async fn lost(endpoint: &str, count: usize) -> u64 {
    let telemetry = start(endpoint);
    let shared = telemetry.clone();
    let began = Instant::now();
    for _ in 0..count {
        telemetry.export(record(1, None, SpanKind::Server));
    }
    // A debug build on a busy machine: what matters is that no network was waited for.
    assert!(began.elapsed() < Duration::from_secs(1), "export waited {:?}", began.elapsed());
    let began = Instant::now();
    telemetry.shutdown().await;
    assert!(began.elapsed() < SHUTDOWN_TIMEOUT + Duration::from_secs(5), "{:?}", began.elapsed());
    shared.export(record(2, None, SpanKind::Server));
    shared.dropped()
}

#[tokio::test]
async fn a_dead_collector_costs_counted_spans() {
    // A port that was free a moment ago, and that nobody listens on.
    let endpoint = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    assert_eq!(lost(&endpoint, 3 * QUEUE_LEN_MAX).await, 3 * QUEUE_LEN_MAX as u64 + 1);
}

#[tokio::test]
async fn a_refusing_collector_costs_counted_spans() {
    let (endpoint, mut posts_rx) = collector("403 Forbidden").await;
    assert_eq!(lost(&endpoint, 10).await, 11);
    assert!(posts_rx.try_recv().is_ok());
}

#[tokio::test]
async fn a_silent_collector_costs_counted_spans() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    assert_eq!(lost(&endpoint, 10).await, 11);
}

#[tokio::test]
async fn without_a_collector_nothing_is_counted() {
    let telemetry = Telemetry::disabled();
    assert!(!telemetry.is_enabled());
    telemetry.export(record(1, None, SpanKind::Server));
    assert_eq!(telemetry.dropped(), 0);
    telemetry.shutdown().await;
}
