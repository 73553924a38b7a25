//! Every name an operator can search a trace for.
//!
//! Span names are the method's own name, or [`OTHER_METHOD`] for one that nobody registered: a name
//! that a stranger made up must not become a new row in somebody's dashboard. The `rpc.*` and
//! `messaging.*` names follow OpenTelemetry's semantic conventions, schema 1.42; `mesh.*` are ours.
//! Values of the closed sets are in the modules below.

/// The span name of a call to a method that is not registered.
pub const OTHER_METHOD: &str = "_OTHER";

/// Which dialect the caller speaks: a value of [`rpc_system`].
pub const RPC_SYSTEM_NAME: &str = "rpc.system.name";
/// The method that was called.
pub const RPC_METHOD: &str = "rpc.method";
/// Where on its way through the mesh the message was: a value of [`hop`].
pub const MESH_HOP: &str = "mesh.hop";
/// Where the callee is, seen from this node: a value of [`route`].
pub const MESH_ROUTE: &str = "mesh.route";
/// Why the call went there: a value of [`route_reason`].
pub const MESH_ROUTE_REASON: &str = "mesh.route.reason";
/// How it ended: a word of [`Outcome`](mesh_model::Outcome).
pub const MESH_OUTCOME: &str = "mesh.outcome";
/// The node on the other side of the hop, by name.
pub const MESH_NODE: &str = "mesh.node";
/// The application that sent the message.
pub const CLIENT_APP: &str = "client.app";
/// The node a message went to, by name.
pub const SERVER_ADDRESS: &str = "server.address";
/// What carried the message: a value of [`protocol`].
pub const NETWORK_PROTOCOL_NAME: &str = "network.protocol.name";
/// Why a span failed, in few words.
pub const ERROR_TYPE: &str = "error.type";
/// Whose messages these are: [`MESSAGING_SYSTEM_DESKMESH`].
pub const MESSAGING_SYSTEM: &str = "messaging.system";
/// What was done with the message: `send`, `deliver` or `process`.
pub const MESSAGING_OPERATION_NAME: &str = "messaging.operation.name";
/// The destination, with identifiers replaced: `/workspaces/{id}`.
pub const MESSAGING_DESTINATION_TEMPLATE: &str = "messaging.destination.template";
/// The value of [`MESH_OUTCOME`] that is no error.
pub const OUTCOME_OK: &str = "ok";
/// The value of [`MESSAGING_SYSTEM`].
pub const MESSAGING_SYSTEM_DESKMESH: &str = "deskmesh";

/// Resource: what runs.
pub const SERVICE_NAME: &str = "service.name";
/// Resource: which of them, by node id.
pub const SERVICE_INSTANCE_ID: &str = "service.instance.id";
/// Resource: which build.
pub const SERVICE_VERSION: &str = "service.version";
/// Resource: the node's name.
pub const HOST_NAME: &str = "host.name";

/// The name of the instrumentation scope of every span.
pub const SCOPE: &str = "deskmesh";

/// Values of [`RPC_SYSTEM_NAME`].
pub mod rpc_system {
    /// An io.Connect client.
    pub const GW3: &str = "gw3";
    /// An FDC3 client.
    pub const FDC3: &str = "fdc3";
}

/// Values of [`MESH_HOP`].
pub mod hop {
    /// The message entered the mesh here.
    pub const INGRESS: &str = "ingress";
    /// The message was passed to another node.
    pub const FORWARD: &str = "forward";
    /// The message left the mesh here.
    pub const EGRESS: &str = "egress";
}

/// Values of [`MESH_ROUTE`].
pub mod route {
    /// The callee is attached to this node.
    pub const LOCAL: &str = "local";
    /// The callee is attached to another node.
    pub const REMOTE: &str = "remote";
    /// There was no callee.
    pub const NONE: &str = "none";
}

/// Values of [`MESH_ROUTE_REASON`].
pub mod route_reason {
    /// The caller named an instance of this node.
    pub const NAMED_LOCAL: &str = "named_local";
    /// The caller named an instance of another node, and this node has no provider.
    pub const NAMED_REMOTE_ONLY: &str = "named_remote_only";
    /// The caller named an instance of another node although this node has a provider.
    pub const NAMED_REMOTE_OVER_LOCAL: &str = "named_remote_over_local";
    /// There was nobody to call.
    pub const NO_TARGET: &str = "no_target";
}

/// Values of [`NETWORK_PROTOCOL_NAME`].
pub mod protocol {
    /// A link between nodes.
    pub const QUIC: &str = "quic";
    /// An application's connection.
    pub const WEBSOCKET: &str = "websocket";
}
