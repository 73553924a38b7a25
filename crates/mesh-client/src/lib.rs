//! A small async client for Rust apps, speaking GW3.
//!
//! An app connects to the node on its desktop and then talks to every other app of the same user, wherever
//! that runs: it offers methods and calls those of others, streams data, shares contexts and publishes to
//! topics. Apps written with `@interopio/core` or `@glue42/core` are on the other end without knowing it.
//!
//! ```no_run
//! use mesh_client::{Client, Credentials, Identity, MethodDefinition, Target};
//! use serde_json::json;
//!
//! # async fn tour() -> Result<(), Box<dyn std::error::Error>> {
//! let credentials = Credentials { user: "ann".into(), secret: "s3cret".into() };
//! let client = Client::connect("ws://127.0.0.1:8385", credentials, Identity::new("order-blotter")).await?;
//!
//! // Offer a method. The handler may be called again while an earlier call is still being answered.
//! client
//!     .register(MethodDefinition::new("Orders.Place"), |call| async move {
//!         let symbol = call.args["symbol"].as_str().ok_or("symbol is missing")?;
//!         Ok(json!({ "accepted": symbol, "for": call.caller.application() }))
//!     })
//!     .await?;
//!
//! // Call a method of whoever offers it; an app that starts only now is waited for.
//! let answers = client.invoke("Risk.Check", json!({ "symbol": "VOD.L" }), Target::Best).await?;
//! println!("{}", answers.into_value());
//!
//! // Share state. Everybody subscribed sees the change, and whoever comes later sees the state.
//! client.contexts().update("selection", json!({ "symbol": "VOD.L" })).await?;
//! let mut changes = client.contexts().subscribe("selection");
//! while let Some(change) = changes.next().await {
//!     println!("{change:?}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Methods
//!
//! A method is known by its name, whatever its letter case. [`Client::methods`] lists what is offered right
//! now, and [`Client::wait_for_method`] waits for a name to appear. [`Target`] says who of several providers
//! is meant:
//!
//! | target | calls |
//! |---|---|
//! | [`Target::Best`] | this app itself if it offers the method, else a provider on the same node, else the first that announced it |
//! | [`Target::All`] | everybody; succeeds if one does |
//! | [`Target::AllOthers`] | everybody but this app |
//! | [`Target::Instance`] | those whose identity has the given values |
//!
//! Without a provider, an invocation waits for one; without an answer, it waits for that. Both take as long
//! as [`Timeouts`] say.
//!
//! # Streams
//!
//! A provider accepts subscribers on branches and pushes to one branch or to all. A subscriber reads a
//! [`Feed`].
//!
//! ```no_run
//! # use mesh_client::{Client, MethodDefinition, Target};
//! # use serde_json::json;
//! # async fn streams(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let (quotes, mut requests) = client.stream(MethodDefinition::new("Quotes")).await?;
//! tokio::spawn(async move {
//!     while let Some(request) = requests.next().await {
//!         let args = request.args.value().unwrap_or_default();
//!         let _ = match args["symbol"].as_str() {
//!             Some(symbol) => request.accept_on(symbol).await.map(drop),
//!             None => request.reject("symbol is missing").await,
//!         };
//!     }
//! });
//! quotes.branch("VOD.L").push(json!({ "bid": 72.1, "ask": 72.2 })).await?;
//!
//! let mut feed = client.subscribe("Quotes", json!({ "symbol": "VOD.L" }), Target::Best).await?;
//! while let Some(event) = feed.next().await {
//!     println!("{}", event.data);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Contexts and topics
//!
//! [`Client::contexts`] holds the shared contexts, [`Client::bus`] publishes to topics. Both hand out feeds
//! as well; [`Feed::for_each`] turns a feed into a callback.
//!
//! # Queues, and what happens when they are full
//!
//! Beside what the node announces, nothing in this client grows without a bound, and reading from the node
//! never waits for the app:
//!
//! | queue | when it is full |
//! |---|---|
//! | frames to the node | the sender waits; this is the back-pressure that reaches the app |
//! | a feed | its oldest item is dropped, and [`Feed::missed`] counts it; a context's newest state always arrives |
//! | calls waiting for a handler | the call is answered with an error that says so |
//! | subscribers waiting to be accepted | the subscriber is rejected with a reason that says so |
//!
//! # Raw JSON
//!
//! [`serde_json::Value`] is the convenient layer. It holds neither lone surrogates nor numbers beyond 64
//! bits, and costs a tree per message. [`Client::invoke_raw`], [`Client::register_raw`] and the `push_raw`
//! methods take and give the text as it travels ([`Payload`], [`serde_json::value::RawValue`]) and parse
//! nothing.
//!
//! # The connection
//!
//! A [`Client`] is a handle: clone it freely. The connection ends with [`Client::close`], with the last
//! clone, or when the node goes away; then requests fail with [`RequestError::Closed`], feeds end, and
//! [`Client::closed`] says why. This client does not connect again by itself: an app that wants to makes a
//! new one and registers anew, in a loop around what it does.

mod bus;
mod client;
mod connection;
mod context;
mod delta;
mod dispatch;
mod error;
mod feed;
mod identity;
mod invoke;
mod message;
mod method;
mod payload;
mod stream;
mod view;

pub use crate::bus::{Bus, BusMessage, Publication};
pub use crate::client::{Client, Timeouts};
pub use crate::context::{ContextChange, Contexts};
pub use crate::error::{ConnectError, InvokeError, RequestError};
pub use crate::feed::Feed;
pub use crate::identity::{Credentials, Identity, Instance};
pub use crate::invoke::{Answer, Answers, Failure, Target};
pub use crate::method::{Call, MethodDefinition, RawCall};
pub use crate::payload::Payload;
pub use crate::stream::{Branch, StreamEvent, StreamProvider, StreamRequest, StreamRequests, Subscriber};
pub use crate::view::Method;

/// The limits of this client; what reaching one means is on the [front page](crate).
pub mod limits {
    use std::time::Duration;

    /// Frames on their way to the node.
    pub const FRAMES_LEN_MAX: usize = 256;
    /// Requests sent and not answered; further ones wait.
    pub const REQUESTS_LEN_MAX: usize = 4096;
    /// Items in a feed that nobody has taken yet.
    pub const FEED_LEN_MAX: usize = 1024;
    /// Calls of one method waiting for their handler.
    pub const CALLS_WAITING_MAX: usize = 1024;
    /// Calls of one method whose handlers are at work.
    pub const CALLS_RUNNING_MAX: usize = 256;
    /// Subscribers of one stream waiting to be accepted.
    pub const SUBSCRIBERS_WAITING_MAX: usize = 256;
    /// The longest message taken from the node.
    pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
    /// How far beyond its end a path may write into an array of a context.
    pub const ARRAY_GROWTH_MAX: usize = 1024;
    /// How long connecting and logging in may take.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
    /// How often the node hears that this client is alive.
    pub const PING_INTERVAL: Duration = Duration::from_secs(30);
}
