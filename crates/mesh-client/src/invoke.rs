//! Calling methods of others. Whom to call is decided here, by the rules of GW3 section 12.1.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::client::Client;
use crate::connection::Effect;
use crate::error::{InvokeError, RequestError};
use crate::identity::Instance;
use crate::message::{self, Domain};
use crate::payload::Payload;
use crate::view::{Method, Offer};

/// Who of several providers is meant.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Target {
    /// This app itself if it offers the method, else the first on the same node, else the first.
    #[default]
    Best,
    /// All of them.
    All,
    /// All of them but this app.
    AllOthers,
    /// All whose identity has these values, compared as lower-case text; `peerId` names a connection.
    Instance(Map<String, Value>),
}

impl Target {
    /// The instances of an application.
    #[must_use]
    pub fn application(name: impl Into<String>) -> Self {
        Self::by("application", name.into())
    }

    /// One instance, by the id it calls itself.
    #[must_use]
    pub fn instance(id: impl Into<String>) -> Self {
        Self::by("instance", id.into())
    }

    /// One running app, as it was met in [`Method::providers`] or as a caller.
    #[must_use]
    pub fn peer(instance: &Instance) -> Self {
        Self::by("peerId", instance.peer_id().to_owned())
    }

    fn by(key: &str, value: String) -> Self {
        Self::Instance(Map::from_iter([(key.to_owned(), value.into())]))
    }

    /// Keeps the offers that are meant.
    fn choose(&self, mut offers: Vec<Offer>, own: &Instance) -> Vec<Offer> {
        match self {
            Self::Best => {
                let best = offers.iter().position(|offer| offer.by.is_local()).unwrap_or(0);
                offers.drain(..best);
                offers.truncate(1);
            }
            Self::All => {}
            Self::AllOthers => offers.retain(|offer| offer.by.peer_id() != own.peer_id()),
            Self::Instance(wanted) => offers.retain(|offer| offer.by.matches(wanted)),
        }
        offers
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best => f.write_str("the best"),
            Self::All => f.write_str("all"),
            Self::AllOthers => f.write_str("all but this app"),
            Self::Instance(wanted) => write!(f, "{}", Value::Object(wanted.clone())),
        }
    }
}

/// One provider's answer.
#[derive(Clone, Debug)]
pub struct Answer<T = Value> {
    /// What it returned.
    pub value: T,
    /// Who answered.
    pub by: Arc<Instance>,
}

/// What an invocation brought: at least one answer, in the order in which the providers were announced.
#[derive(Clone, Debug)]
pub struct Answers<T = Value> {
    first: Answer<T>,
    others: Vec<Answer<T>>,
    failures: Vec<Failure>,
}

impl<T> Answers<T> {
    /// Returns the first answer's value; the only one, unless several were called.
    #[must_use]
    pub fn value(&self) -> &T {
        &self.first.value
    }

    /// Takes the first answer's value.
    #[must_use]
    pub fn into_value(self) -> T {
        self.first.value
    }

    /// Returns who gave the first answer.
    #[must_use]
    pub fn by(&self) -> &Instance {
        &self.first.by
    }

    /// Returns all answers.
    pub fn iter(&self) -> impl Iterator<Item = &Answer<T>> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Returns who failed while others answered.
    #[must_use]
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }
}

/// A provider that did not answer, or answered with an error.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Who failed.
    pub by: Arc<Instance>,
    /// Why; the reason of the app itself is in [`RequestError::Refused`].
    pub error: RequestError,
}

impl Failure {
    /// The first failure in words, and how many more there are.
    pub(crate) fn summary(failures: &[Self]) -> String {
        let Some(first) = failures.first() else { return "nobody was asked".to_owned() };
        let who = first.by.application();
        let why = match &first.error {
            RequestError::Refused { reason, .. } => reason.clone(),
            other => other.to_string(),
        };
        match failures.len() - 1 {
            0 => format!("{who}: {why}"),
            more => format!("{who}: {why} (and {more} more)"),
        }
    }
}

impl Client {
    /// Returns every method and stream that somebody offers now.
    #[must_use]
    pub fn methods(&self) -> Vec<Method> {
        self.connection.state().view.methods()
    }

    /// Returns the method as soon as somebody offers it.
    ///
    /// # Errors
    ///
    /// If nobody does within that time.
    pub async fn wait_for_method(&self, name: &str, patience: Duration) -> Result<Method, InvokeError> {
        let mut changes = self.connection.changes();
        let found = async {
            loop {
                changes.mark_unchanged();
                if self.connection.is_closed() {
                    return Err(self.connection.closed_error().into());
                }
                if let Some(method) = self.connection.state().view.method(name) {
                    return Ok(method);
                }
                // Never fails: the sender lives in the connection.
                let _ = changes.changed().await;
            }
        };
        let no_method = || InvokeError::NoMethod { name: name.to_owned(), waited: patience };
        timeout(patience, found).await.unwrap_or_else(|_| Err(no_method()))
    }

    /// Calls a method and waits for the answer, or for all answers.
    ///
    /// A provider that is not there yet is waited for. A result that travelled as `{"_value": …}`, as
    /// JavaScript sends what is not an object, is unpacked.
    ///
    /// # Errors
    ///
    /// If nobody that is meant offers the method, or none of them answered.
    pub async fn invoke(&self, name: &str, args: Value, target: Target) -> Result<Answers, InvokeError> {
        let args = to_arguments("invoke", &args)?;
        let Answers { first, others, failures } = self.invoke_raw(name, &args, target).await?;
        let read = |Answer { value, by }: Answer<Payload>| match value.value() {
            Ok(value) => Ok(Answer { value: unwrap_primitive(value), by }),
            Err(error) => {
                Err(InvokeError::Unreadable { name: name.to_owned(), by, problem: error.to_string() })
            }
        };
        let others = others.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok(Answers { first: read(first)?, others, failures })
    }

    /// Calls a method with JSON text, which has to be an object, and returns results as they travelled.
    ///
    /// # Errors
    ///
    /// If nobody that is meant offers the method, or none of them answered.
    pub async fn invoke_raw(
        &self,
        name: &str,
        args: &RawValue,
        target: Target,
    ) -> Result<Answers<Payload>, InvokeError> {
        let offers = self.wait_for_offers(name, &target).await?;
        let calls = offers.iter().map(|offer| self.call(offer, args));
        let mut answers = Vec::new();
        let mut failures = Vec::new();
        for (offer, outcome) in offers.iter().zip(join_all(calls).await) {
            match outcome {
                Ok(value) => answers.push(Answer { value, by: offer.by.clone() }),
                Err(error) => failures.push(Failure { by: offer.by.clone(), error }),
            }
        }
        if answers.is_empty() {
            return Err(InvokeError::Failed { name: name.to_owned(), failures });
        }
        let first = answers.remove(0);
        Ok(Answers { first, others: answers, failures })
    }

    async fn call(&self, offer: &Offer, args: &RawValue) -> Result<Payload, RequestError> {
        let body =
            message::Call { server_id: offer.by.peer_id(), method_id: &offer.method_id, arguments_kv: args };
        let reply = self.request("call a method", Domain::Agm, "call", body, Effect::None).await?;
        Ok(reply.result.map_or_else(|| Payload::from_option(None), Payload::from))
    }

    /// The providers that are meant; waits for the first of them.
    pub(crate) async fn wait_for_offers(
        &self,
        name: &str,
        target: &Target,
    ) -> Result<Vec<Offer>, InvokeError> {
        let patience = self.timeouts.wait;
        let choose = || target.choose(self.connection.state().view.offers(name), &self.connection.own);
        let mut changes = self.connection.changes();
        let found = async {
            loop {
                changes.mark_unchanged();
                if self.connection.is_closed() {
                    return Err(self.connection.closed_error().into());
                }
                let offers = choose();
                if !offers.is_empty() {
                    return Ok(offers);
                }
                let _ = changes.changed().await;
            }
        };
        match timeout(patience, found).await {
            Ok(found) => found,
            Err(_) => {
                let name = name.to_owned();
                Err(match self.connection.state().view.offers(&name).len() {
                    0 => InvokeError::NoMethod { name, waited: patience },
                    offering => InvokeError::NoInstance { name, target: target.to_string(), offering },
                })
            }
        }
    }
}

/// Arguments as they travel: an object, or nothing at all.
pub(crate) fn to_arguments(what: &'static str, args: &Value) -> Result<Box<RawValue>, RequestError> {
    if !args.is_object() && !args.is_null() {
        let problem = "the arguments are not a JSON object; give each a name".to_owned();
        return Err(RequestError::Invalid { what, problem });
    }
    to_raw_value(args).map_err(|error| RequestError::Invalid { what, problem: error.to_string() })
}

fn unwrap_primitive(value: Value) -> Value {
    match value {
        Value::Object(mut map) if map.len() == 1 && map.contains_key("_value") => map["_value"].take(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::View;

    fn check(target: &Target, expected: &[&str]) {
        let mut view = View::default();
        for (peer_id, is_local, application) in
            [("p-far", false, "Blotter"), ("p-own", true, "Me"), ("p-near", true, "blotter")]
        {
            let Value::Object(identity) = json!({ "application": application, "region": 4 }) else { return };
            view.add_peer(Arc::new(Instance::new(peer_id.to_owned(), is_local, identity)));
            view.add_methods(peer_id, vec![json!({ "id": "0", "name": "Sum" })]);
        }
        let own = view.peer("p-own").unwrap().clone();
        let chosen = target.choose(view.offers("sum"), &own);
        let chosen: Vec<_> = chosen.iter().map(|offer| offer.by.peer_id()).collect();
        assert_eq!(chosen, expected, "{target}");
    }

    #[test]
    fn targets_choose_as_the_protocol_says() {
        check(&Target::Best, &["p-own"]);
        check(&Target::All, &["p-far", "p-own", "p-near"]);
        check(&Target::AllOthers, &["p-far", "p-near"]);
        check(&Target::application("BLOTTER"), &["p-far", "p-near"]);
        check(&Target::by("region", "4".to_owned()), &["p-far", "p-own", "p-near"]);
        check(&Target::by("peerId", "p-near".to_owned()), &["p-near"]);
        check(&Target::application("nobody"), &[]);
    }
}
