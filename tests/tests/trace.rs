//! What a collector gets: a call between two nodes is one trace.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use mesh_client::{Client, Credentials, Identity, MethodDefinition, Target};
use mesh_tests::clients::lock;
use mesh_tests::{Mesh, until};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// How long a node may keep a span.
const PATIENCE: Duration = Duration::from_secs(15);

/// A span and the name of the node that sent it.
#[derive(Clone, Debug)]
struct Seen {
    node: String,
    span: Span,
}

impl Seen {
    fn attribute(&self, name: &str) -> String {
        text(&self.span.attributes, name)
    }
}

fn text(attributes: &[KeyValue], name: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == name).and_then(|a| a.value.as_ref());
    match value.and_then(|value| value.value.as_ref()) {
        Some(AnyValue::StringValue(text)) => text.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

/// An OTLP/HTTP collector that keeps what it gets.
struct Collector {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                thread::spawn(move || while let Ok(true) = serve(&stream, &kept) {});
            }
        });
        Self { address, seen }
    }

    /// Waits for the spans of a method, one for each hop in this order.
    fn hops(&self, method: &str) -> [Seen; 3] {
        let find = |hop: &str| {
            let seen = lock(&self.seen);
            seen.iter().find(|seen| seen.span.name == method && seen.attribute("mesh.hop") == hop).cloned()
        };
        let mut hops = [None, None, None];
        until(PATIENCE, || {
            hops = ["ingress", "forward", "egress"].map(find);
            hops.iter().all(Option::is_some)
        });
        let spans = lock(&self.seen).iter().filter(|seen| seen.span.name == method).count();
        assert_eq!(spans, 3, "{:#?}", lock(&self.seen));
        hops.map(|hop| hop.expect("a span for each hop"))
    }
}

/// Takes one request, and returns whether there was one.
fn serve(stream: &TcpStream, kept: &Mutex<Vec<Seen>>) -> io::Result<bool> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(false);
        }
    }
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    let head = head.to_lowercase();
    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
    let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().trim();
    let mut body = vec![0; len.parse().unwrap()];
    reader.read_exact(&mut body)?;
    let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
    for resource_spans in request.resource_spans {
        let attributes = resource_spans.resource.unwrap().attributes;
        assert_eq!(text(&attributes, "service.name"), "deskmesh");
        let node = text(&attributes, "host.name");
        let spans = resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
        lock(kept).extend(spans.map(|span| Seen { node: node.clone(), span }));
    }
    let mut stream = stream;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")?;
    Ok(true)
}

/// Calls a method of an application at b from one at a.
fn invoke(mesh: &Mesh, method: &str, args: Value) {
    Runtime::new().unwrap().block_on(async {
        let login = async |url: String, application| {
            let credentials = Credentials { user: "ann".into(), secret: "x".into() };
            Client::connect(&url, credentials, Identity::new(application)).await.unwrap()
        };
        let provider = login(mesh.b.url(), "risk").await;
        provider
            .register(MethodDefinition::new(method), |_| async { Ok(json!({"ok": true})) })
            .await
            .unwrap();
        let caller = login(mesh.a.url(), "blotter").await;
        let answers = caller.invoke(method, args, Target::Best).await.unwrap();
        assert_eq!(answers.into_value(), json!({"ok": true}));
        caller.close().await;
        provider.close().await;
    });
}

#[test]
fn a_call_between_nodes_is_one_trace() {
    const TRACE: [u8; 16] =
        [0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c];
    const PARENT: [u8; 8] = [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31];

    let collector = Collector::start();
    let mesh = Mesh::two_with(&format!("[telemetry]\notlp_endpoint = \"http://{}\"\n", collector.address));

    invoke(&mesh, "Risk.Begins", json!({"n": 1}));
    let hops = collector.hops("Risk.Begins");
    assert!(hops[0].span.parent_span_id.is_empty(), "the trace begins here");
    check_chain(&hops);

    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let args = json!({"n": 1, "__interopIOTracePropagationInfo": {"traceparent": traceparent}});
    invoke(&mesh, "Risk.Continues", args);
    let hops = collector.hops("Risk.Continues");
    assert_eq!(hops[0].span.trace_id, TRACE);
    assert_eq!(hops[0].span.parent_span_id, PARENT);
    check_chain(&hops);

    // A caller that does not keep its trace decides for all.
    let args = json!({"__interopIOTracePropagationInfo": {"traceparent": traceparent.replace("-01", "-00")}});
    invoke(&mesh, "Risk.Unsampled", args);
    invoke(&mesh, "Risk.Last", json!({}));
    check_chain(&collector.hops("Risk.Last"));
    assert!(lock(&collector.seen).iter().all(|seen| seen.span.name != "Risk.Unsampled"));
}

/// Asserts that the hops are one trace, each the child of the one before.
fn check_chain([ingress, forward, egress]: &[Seen; 3]) {
    for (seen, node, kind) in [
        (ingress, "desk-a", SpanKind::Server),
        (forward, "desk-a", SpanKind::Client),
        (egress, "desk-b", SpanKind::Server),
    ] {
        assert_eq!((seen.node.as_str(), seen.span.kind()), (node, kind), "{seen:?}");
        assert_eq!(seen.span.trace_id, ingress.span.trace_id, "one trace");
        assert_eq!(seen.attribute("mesh.outcome"), "ok");
        assert_eq!(seen.attribute("client.app"), "blotter");
        assert!(seen.span.start_time_unix_nano <= seen.span.end_time_unix_nano);
    }
    assert_eq!(forward.span.parent_span_id, ingress.span.span_id);
    assert_eq!(egress.span.parent_span_id, forward.span.span_id);
    for seen in [ingress, forward] {
        assert_eq!(seen.attribute("mesh.route"), "remote");
        assert_eq!(seen.attribute("mesh.route.reason"), "named_remote_only");
    }
    assert_eq!(egress.attribute("mesh.route"), "local");
    assert!(!egress.attribute("mesh.route.reason").is_empty());
    assert_eq!(forward.attribute("mesh.node"), "desk-b");
}
