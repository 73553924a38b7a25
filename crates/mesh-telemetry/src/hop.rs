//! One hop of a call, as a span.

use mesh_model::Tick;
use mesh_model::trace::{Hop, HopKind, Route};

use crate::names::{self, hop, protocol, route, route_reason, rpc_system};
use crate::{SpanKind, SpanRecord, SpanStatus};

impl SpanRecord {
    /// Returns the span of a hop. `unix_nanos` places the core's clock in time.
    #[must_use]
    pub fn of_hop(hop: &Hop, unix_nanos: impl Fn(Tick) -> u64) -> Self {
        let (kind, place, protocol) = match hop.kind {
            HopKind::Ingress => (SpanKind::Server, hop::INGRESS, protocol::WEBSOCKET),
            HopKind::Forward => (SpanKind::Client, hop::FORWARD, protocol::QUIC),
            HopKind::Egress => (SpanKind::Server, hop::EGRESS, protocol::WEBSOCKET),
        };
        let (route, reason) = match hop.route {
            Route::LocalInstance => (route::LOCAL, route_reason::NAMED_LOCAL),
            Route::RemoteInstanceOnly => (route::REMOTE, route_reason::NAMED_REMOTE_ONLY),
            Route::RemoteInstanceChosen => (route::REMOTE, route_reason::NAMED_REMOTE_OVER_LOCAL),
            Route::None => (route::NONE, route_reason::NO_TARGET),
        };
        // A name that reached nobody is the caller's invention.
        let method = if hop.route == Route::None { names::OTHER_METHOD } else { &*hop.method };
        let mut attributes = vec![
            (names::RPC_SYSTEM_NAME, rpc_system::GW3.into()),
            (names::RPC_METHOD, hop.method.to_string().into()),
            (names::MESH_HOP, place.into()),
            (names::MESH_ROUTE, route.into()),
            (names::MESH_ROUTE_REASON, reason.into()),
            (names::MESH_OUTCOME, hop.outcome.into()),
            (names::CLIENT_APP, hop.caller_application.to_string().into()),
            (names::NETWORK_PROTOCOL_NAME, protocol.into()),
        ];
        if let Some(node) = &hop.node {
            attributes.push((names::MESH_NODE, node.to_string().into()));
            if hop.kind == HopKind::Forward {
                attributes.push((names::SERVER_ADDRESS, node.to_string().into()));
            }
        }
        let status = match hop.outcome {
            names::OUTCOME_OK => SpanStatus::Ok,
            outcome => {
                attributes.push((names::ERROR_TYPE, outcome.into()));
                SpanStatus::Error(outcome.to_owned())
            }
        };
        Self {
            trace_id: hop.trace_id,
            span_id: hop.span_id,
            parent_span_id: (hop.parent_span_id != 0).then_some(hop.parent_span_id),
            name: method.to_owned(),
            kind,
            start_unix_nanos: unix_nanos(hop.start),
            end_unix_nanos: unix_nanos(hop.end),
            attributes,
            status,
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::{Answer, Outcome, Text};

    use super::*;

    fn hop() -> Hop {
        Hop {
            trace_id: 1,
            span_id: 2,
            parent_span_id: 3,
            kind: HopKind::Forward,
            method: Text::from_static("Quotes.Get"),
            start: Tick(10),
            end: Tick(25),
            route: Route::RemoteInstanceOnly,
            caller_application: Text::from_static("blotter"),
            node: Some(Text::from_static("desk-2")),
            outcome: Outcome::Answered(Answer::Result(None)).word(),
        }
    }

    fn attribute(span: &SpanRecord, name: &str) -> Option<String> {
        let (_, value) = span.attributes.iter().find(|(other, _)| *other == name)?;
        Some(opentelemetry::Value::from(value.clone()).to_string())
    }

    #[test]
    fn says_where_a_call_went_and_why() {
        let span = SpanRecord::of_hop(&hop(), |tick| 1_000_000 + tick.0 * 1000);
        assert_eq!((span.start_unix_nanos, span.end_unix_nanos), (1_010_000, 1_025_000));
        assert_eq!(
            (span.name.as_str(), span.kind, span.parent_span_id),
            ("Quotes.Get", SpanKind::Client, Some(3))
        );
        assert_eq!(span.status, SpanStatus::Ok);
        for (name, expected) in [
            ("rpc.system.name", Some("gw3")),
            ("rpc.method", Some("Quotes.Get")),
            ("mesh.hop", Some("forward")),
            ("mesh.route", Some("remote")),
            ("mesh.route.reason", Some("named_remote_only")),
            ("mesh.outcome", Some("ok")),
            ("client.app", Some("blotter")),
            ("mesh.node", Some("desk-2")),
            ("server.address", Some("desk-2")),
            ("network.protocol.name", Some("quic")),
            ("error.type", None),
        ] {
            assert_eq!(attribute(&span, name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn keeps_invented_names_out_of_span_names() {
        let hop = Hop { route: Route::None, parent_span_id: 0, outcome: "no_target", node: None, ..hop() };
        let span = SpanRecord::of_hop(&hop, |tick| tick.0);
        assert_eq!((span.name.as_str(), span.parent_span_id), (names::OTHER_METHOD, None));
        assert_eq!(span.status, SpanStatus::Error("no_target".into()));
        assert_eq!(attribute(&span, names::ERROR_TYPE).as_deref(), Some("no_target"));
    }
}
