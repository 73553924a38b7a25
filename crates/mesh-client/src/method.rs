//! Methods that this app offers.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::connection::{Connection, Effect, OwnMethod};
use crate::dispatch::CLIENT_ERROR;
use crate::error::RequestError;
use crate::identity::Instance;
use crate::limits::{CALLS_RUNNING_MAX, CALLS_WAITING_MAX};
use crate::message::{Domain, ErrorReply, Register, Unregister, Yield};
use crate::payload::Payload;

/// What an app says about a method or a stream.
#[derive(Clone, Debug, Default)]
pub struct MethodDefinition {
    /// The name, unique within the app whatever its letter case.
    pub name: String,
    /// The name for people.
    pub display_name: Option<String>,
    /// What it does.
    pub description: Option<String>,
    /// What it takes, such as `String symbol, Int? quantity`.
    pub accepts: Option<String>,
    /// What it returns, written the same way.
    pub returns: Option<String>,
    /// The kinds of object it understands.
    pub object_types: Vec<String>,
    /// A version of the app's own.
    pub version: Option<u32>,
    /// Anything else that others may want to know.
    pub flags: Map<String, Value>,
}

impl MethodDefinition {
    /// A method of that name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Says what it takes and returns.
    #[must_use]
    pub fn with_signature(mut self, accepts: impl Into<String>, returns: impl Into<String>) -> Self {
        self.accepts = Some(accepts.into());
        self.returns = Some(returns.into());
        self
    }

    fn to_json(&self, id: &str, is_stream: bool) -> Value {
        let mut json = json!({
            "id": id,
            "name": self.name,
            "flags": { "metadata": self.flags, "streaming": is_stream },
        });
        for (key, text) in [
            ("display_name", &self.display_name),
            ("description", &self.description),
            ("input_signature", &self.accepts),
            ("result_signature", &self.returns),
        ] {
            if let Some(text) = text {
                json[key] = text.as_str().into();
            }
        }
        if let Some(version) = self.version {
            json["version"] = version.into();
        }
        if !self.object_types.is_empty() {
            json["object_types"] = self.object_types.clone().into();
        }
        json
    }
}

/// A call of one of this app's methods.
#[derive(Clone, Debug)]
pub struct Call {
    /// The arguments by name.
    pub args: Value,
    /// Who calls.
    pub caller: Arc<Instance>,
}

/// A call with its arguments as they travelled.
#[derive(Clone, Debug)]
pub struct RawCall {
    /// The arguments: a JSON object, or null.
    pub args: Payload,
    /// Who calls.
    pub caller: Arc<Instance>,
}

impl Client {
    /// Offers a method.
    ///
    /// The handler is called for one call after another; the futures it returns run side by side, up to
    /// [`CALLS_RUNNING_MAX`]. An `Err` reaches the caller as the reason of the failure, and so does a panic.
    /// A result that is not an object travels as `{"_value": …}`, as apps in JavaScript expect.
    ///
    /// # Errors
    ///
    /// If this app offers the name already, or the node refuses.
    pub async fn register<H, F>(
        &self,
        definition: MethodDefinition,
        mut handler: H,
    ) -> Result<(), RequestError>
    where
        H: FnMut(Call) -> F + Send + 'static,
        F: Future<Output = Result<Value, String>> + Send + 'static,
    {
        let raw_handler = move |RawCall { args, caller }: RawCall| {
            let answer = match args.value() {
                Ok(args) => Ok(handler(Call { args, caller })),
                Err(error) => Err(format!("the arguments cannot be read: {error}")),
            };
            async move {
                let result = match answer?.await? {
                    Value::Null => json!({}),
                    result @ Value::Object(_) => result,
                    other => json!({ "_value": other }),
                };
                to_raw_value(&result).map_err(|error| error.to_string())
            }
        };
        self.register_raw(definition, raw_handler).await
    }

    /// Offers a method that takes and returns JSON text; the result has to be an object.
    ///
    /// # Errors
    ///
    /// If this app offers the name already, or the node refuses.
    pub async fn register_raw<H, F>(
        &self,
        definition: MethodDefinition,
        handler: H,
    ) -> Result<(), RequestError>
    where
        H: FnMut(RawCall) -> F + Send + 'static,
        F: Future<Output = Result<Box<RawValue>, String>> + Send + 'static,
    {
        let (calls_tx, calls_rx) = mpsc::channel(CALLS_WAITING_MAX);
        let id = self.connection.fresh_id().to_string();
        self.reserve(&definition.name, |state| {
            state.own_methods.insert(id.clone(), OwnMethod { name: definition.name.clone(), calls_tx });
        })?;
        tokio::spawn(serve(self.connection.clone(), handler, calls_rx));
        self.announce(&id, &definition, false).await
    }

    /// Withdraws a method. Calls that were accepted are still answered.
    ///
    /// # Errors
    ///
    /// If this app does not offer it, or the node refuses.
    pub async fn unregister(&self, name: &str) -> Result<(), RequestError> {
        let id = {
            let state = self.connection.state();
            let found = state.own_methods.iter().find(|(_, method)| same_name(&method.name, name));
            found.map(|(id, _)| id.clone())
        };
        let Some(id) = id else {
            let problem = format!("this app offers no method {name:?}");
            return Err(RequestError::Invalid { what: "unregister", problem });
        };
        self.withdraw(&id).await
    }

    /// Takes a name for an own method or stream, unless it is taken.
    pub(crate) fn reserve(
        &self,
        name: &str,
        insert: impl FnOnce(&mut crate::connection::State),
    ) -> Result<(), RequestError> {
        let mut state = self.connection.state();
        if self.connection.is_closed() {
            return Err(self.connection.closed_error());
        }
        let mut taken = state.own_methods.values().map(|method| &method.name);
        let mut taken_streams = state.own_streams.values().map(|stream| &stream.name);
        if taken.any(|own| same_name(own, name)) || taken_streams.any(|own| same_name(own, name)) {
            let problem = format!("this app offers {name:?} already; unregister it first");
            return Err(RequestError::Invalid { what: "register", problem });
        }
        insert(&mut state);
        Ok(())
    }

    /// Tells the node about an own method; it is forgotten again if the node refuses.
    pub(crate) async fn announce(
        &self,
        id: &str,
        definition: &MethodDefinition,
        is_stream: bool,
    ) -> Result<(), RequestError> {
        let method = definition.to_json(id, is_stream);
        let body = Register { methods: [&method] };
        let outcome = self.request("register", Domain::Agm, "register", body, Effect::None).await;
        if outcome.is_err() {
            let mut state = self.connection.state();
            state.own_methods.remove(id);
            state.own_streams.remove(id);
        }
        outcome.map(drop)
    }

    /// Tells the node that an own method or stream is gone.
    pub(crate) async fn withdraw(&self, id: &str) -> Result<(), RequestError> {
        let body = Unregister { methods: [id] };
        self.request("unregister", Domain::Agm, "unregister", body, Effect::None).await?;
        let mut state = self.connection.state();
        state.own_methods.remove(id);
        state.own_streams.remove(id);
        Ok(())
    }
}

/// A call on its way to the handler.
#[derive(Debug)]
pub(crate) struct WaitingCall {
    pub(crate) invocation_id: String,
    pub(crate) args: Payload,
    pub(crate) caller: Arc<Instance>,
}

/// Hands calls to the handler until the method is withdrawn, then lets the last ones finish.
async fn serve<H, F>(connection: Arc<Connection>, mut handler: H, mut calls_rx: mpsc::Receiver<WaitingCall>)
where
    H: FnMut(RawCall) -> F + Send + 'static,
    F: Future<Output = Result<Box<RawValue>, String>> + Send + 'static,
{
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            call = calls_rx.recv(), if running.len() < CALLS_RUNNING_MAX => {
                let Some(WaitingCall { invocation_id, args, caller }) = call else { break };
                let connection = connection.clone();
                // The handler itself may panic as well, before it has made a future.
                let answer = std::panic::catch_unwind(AssertUnwindSafe(|| handler(RawCall { args, caller })));
                running.spawn(async move {
                    let answer = match answer {
                        Ok(answer) => AssertUnwindSafe(answer).catch_unwind().await,
                        Err(panic) => Err(panic),
                    };
                    let answer = answer.unwrap_or_else(|_| Err("the method's handler panicked".to_owned()));
                    // Fails only if the connection has ended, and then the caller knows.
                    let _ = respond(&connection, &invocation_id, answer).await;
                });
            }
            Some(_) = running.join_next() => {}
        }
    }
    while running.join_next().await.is_some() {}
}

async fn respond(
    connection: &Connection,
    invocation_id: &str,
    answer: Result<Box<RawValue>, String>,
) -> Result<(), RequestError> {
    match answer {
        Ok(result) => {
            let body = Yield { invocation_id, result: &result };
            connection.tell("answer a call", Domain::Agm, "yield", body).await
        }
        Err(reason) => {
            let body = ErrorReply { reason_uri: CLIENT_ERROR, reason: &reason };
            connection.tell_about("answer a call", invocation_id, body).await
        }
    }
}

fn same_name(a: &str, b: &str) -> bool {
    a.to_lowercase() == b.to_lowercase()
}
