//! What the commands ask: `GET /admin/v1/…` with the secret of the node's data directory.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming as Body;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::{Answer, Local, text};
use crate::admin_client::{AppRow, ContextRow, MethodRow, PeerRow, Status, TokenAnswer};
use crate::tokens::Purpose;

/// Shortest and longest life of a join token.
const TTL_S: std::ops::RangeInclusive<u64> = 1..=86_400;
/// The same of a service's token; the longest is what it gets unless it asks for less.
const SERVICE_TTL_S: std::ops::RangeInclusive<u64> = 1..=31_536_000;

pub(super) fn answer(local: &Local, request: &Request<Body>) -> Answer {
    let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let expected = format!("Bearer {}", local.admin_secret);
    // Digests are compared, so that the time taken tells nothing about the secret.
    let digest = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes);
    if digest(given).as_ref() != digest(expected.as_bytes()).as_ref() {
        return text(StatusCode::UNAUTHORIZED, "the secret of this node's data directory is needed");
    }
    let gateway = &local.gateway;
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/admin/v1/status") => json(&status(local)),
        (&Method::GET, "/admin/v1/peers") => json(&peers(local)),
        (&Method::GET, "/admin/v1/apps") => {
            let names = node_names(local);
            let row = |app: mesh_core::AppView| AppRow {
                instance: app.instance.to_string(),
                application: app.application.to_string(),
                user: app.user.unwrap_or_default().to_string(),
                node: names(app.node),
                machine: app.machine.to_string(),
                local: app.local,
                methods: app.methods as u64,
            };
            json(&gateway.look(|node| node.apps()).into_iter().map(row).collect::<Vec<_>>())
        }
        (&Method::GET, "/admin/v1/methods") => {
            let row = |method: mesh_core::MethodView| MethodRow {
                name: method.name.to_string(),
                application: method.application.to_string(),
                instance: method.instance.to_string(),
                node: method.machine.to_string(),
                streaming: method.streaming,
                local: method.local,
            };
            json(&gateway.look(|node| node.methods()).into_iter().map(row).collect::<Vec<_>>())
        }
        (&Method::GET, "/admin/v1/contexts") => {
            let row = |context: mesh_core::ContextView| ContextRow {
                name: context.name.to_string(),
                user: context.user.unwrap_or_default().to_string(),
                bytes: context.bytes as u64,
                members: context.members as u64,
                keys: context.keys as u64,
            };
            json(&gateway.look(|node| node.contexts()).into_iter().map(row).collect::<Vec<_>>())
        }
        (&Method::GET, "/admin/v1/who-sees") => who_sees(local, request),
        (&Method::POST, "/admin/v1/token") => token(local, request),
        (&Method::POST, "/admin/v1/service-token") => service_token(local, request),
        (&Method::POST, "/admin/v1/reload") => match local.reloader.reload(gateway) {
            Ok(reloaded) => json(&reloaded),
            Err(error) => refuse(StatusCode::UNPROCESSABLE_ENTITY, &crate::output::chain(&error)),
        },
        _ => text(StatusCode::NOT_FOUND, "there is no such question"),
    }
}

fn status(local: &Local) -> Status {
    let view = local.gateway.look(|node| node.status());
    let identity = local.gateway.identity();
    Status {
        node: identity.node().to_string(),
        name: local.config.name.clone(),
        user: identity.owner().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: local.started.elapsed().as_secs(),
        listen: local.listening.iter().map(|address| format!("ws://{address}")).collect(),
        mesh: local.mesh_addresses().join(", "),
        peers: view.peers_up as u64,
        sessions: view.sessions as u64,
        methods: view.methods as u64,
        contexts: view.contexts as u64,
        stream_events_dropped: local.gateway.dropped(),
        spans_dropped: local.gateway.telemetry.dropped(),
        metrics_discarded: local.gateway.metrics(),
    }
}

fn peers(local: &Local) -> Vec<PeerRow> {
    let gateway = &local.gateway;
    let address = |id: mesh_model::NodeId| {
        let open =
            gateway.links.iter().find(|link| link.value().0 == id).map(|link| link.value().1.to_string());
        open.or_else(|| gateway.addresses.get(&id).and_then(|known| known.first().map(ToString::to_string)))
            .unwrap_or_default()
    };
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    let rtt_ms = |us: u64| us as f64 / 1000.0;
    let row = |peer: mesh_core::PeerView| PeerRow {
        node: peer.node.to_string(),
        name: peer.name.to_string(),
        address: address(peer.node),
        state: peer.state.to_owned(),
        by_way_of: peer.by_way_of.map(|name| name.to_string()),
        rtt_ms: peer.rtt_us.map(rtt_ms),
        sessions: peer.instances as u64,
        incarnation: peer.incarnation.0,
    };
    gateway.look(|node| node.peers()).into_iter().map(row).collect()
}

fn node_names(local: &Local) -> impl Fn(mesh_model::NodeId) -> String {
    let mut names: std::collections::BTreeMap<_, _> = local
        .gateway
        .look(|node| node.peers())
        .into_iter()
        .map(|peer| (peer.node, peer.name.to_string()))
        .collect();
    names.insert(local.gateway.identity().node(), local.config.name.clone());
    move |id| names.get(&id).cloned().unwrap_or_else(|| id.short())
}

fn token(local: &Local, request: &Request<Body>) -> Answer {
    let identity = local.gateway.identity();
    if !identity.is_authority() {
        let reason = "this node does not hold the mesh's certificate authority; create the token on the node that was started first";
        return refuse(StatusCode::CONFLICT, reason);
    }
    let ttl = parameter(request, "ttl_s").and_then(|ttl| ttl.parse().ok());
    let ttl = ttl.unwrap_or(mesh_identity::TOKEN_TTL_MS / 1000).clamp(*TTL_S.start(), *TTL_S.end());
    let now = local.gateway.clock.wall_ms();
    match local.gateway.tokens().create(identity, local.mesh_addresses(), ttl * 1000, now) {
        Ok(token) => json(&TokenAnswer { token: token.line(), expires_in_s: ttl }),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

/// Makes a token that logs a service in: an app that all users see.
fn service_token(local: &Local, request: &Request<Body>) -> Answer {
    let Some(user) = parameter(request, "user").filter(|user| !user.is_empty()) else {
        return refuse(StatusCode::BAD_REQUEST, "the name of the service's user is missing");
    };
    let ttl = parameter(request, "ttl_s").and_then(|ttl| ttl.parse().ok());
    let ttl = ttl.unwrap_or(*SERVICE_TTL_S.end()).clamp(*SERVICE_TTL_S.start(), *SERVICE_TTL_S.end());
    let token = local.tokens.make_for(Purpose::Service, &user, local.gateway.clock.wall_ms(), ttl);
    json(&TokenAnswer { token: token.to_string(), expires_in_s: ttl })
}

fn who_sees(local: &Local, request: &Request<Body>) -> Answer {
    let (kind, name) = (parameter(request, "kind"), parameter(request, "name"));
    let (Some(kind), Some(name)) = (kind, name) else {
        return refuse(StatusCode::BAD_REQUEST, "`kind` or `name` is missing");
    };
    let Ok(lists) = local.reloader.lists().lists() else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the visibility lists make no sense");
    };
    match crate::who_sees::answer(&local.gateway, &lists, &kind, &name) {
        Some(sights) => json(&sights),
        None => refuse(StatusCode::BAD_REQUEST, "`kind` must be context, method or app"),
    }
}

/// Returns a parameter of the question.
fn parameter(request: &Request<Body>, name: &str) -> Option<String> {
    let mut pairs = request.uri().query()?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(known, _)| *known == name)?;
    percent_encoding::percent_decode_str(value).decode_utf8().ok().map(Into::into)
}

fn refuse(status: StatusCode, reason: &str) -> Answer {
    let mut answer = json(&serde_json::json!({ "error": reason }));
    *answer.status_mut() = status;
    answer
}

fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let mut answer = Response::new(Full::new(Bytes::from(body)));
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            answer
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
