//! One application's WebSocket: a task that reads, hands to the core, and writes what is for it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use mesh_core::Input;
use mesh_model::{Command, Event, Json, Request, Text};
use proto_gw3::{Connection, Incoming, Login, traceparent};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Local;
use super::settling::Settling;
use super::websocket::{CloseWith, End, Heard, RESTART, close};
use super::wire::{Wire, answer_of, frame_of, relieved};
use crate::authenticator::{Authenticator, BASIC, Question, Verdict};
use crate::outbox::{Item, Outbox, Taken};
use crate::tokens::Purpose;

/// Frames handed to the socket before it is flushed.
const FRAMES_PER_FLUSH: usize = 256;
/// Challenges that a client may be sent before it is logged in.
const CHALLENGES_MAX: u32 = 8;
/// Logins of one connection that wait for an authentication program.
const LOGINS_MAX: usize = 16;

struct Session {
    local: Arc<Local>,
    /// For authentication programs.
    number: u64,
    remote: SocketAddr,
    wire: Wire,
    connection: Connection,
    outbox: Arc<Outbox>,
    settling: Settling,
    /// What waits for the client to read what came before it.
    held: Option<Held>,
    attached: bool,
    /// Until when somebody must have logged in.
    hello_deadline: Instant,
    challenges: u32,
    /// Logins that a program decides about.
    logins: FuturesUnordered<BoxFuture<'static, Decided>>,
    /// Whether the log has a line about its large messages.
    warned: bool,
}

/// Items that were taken, and are written once a ping is answered.
struct Held {
    items: VecDeque<Item>,
    ping: u64,
    until: Instant,
}

/// A login, and what became of it.
struct Decided {
    request: Request,
    identity: Json,
    verdict: Result<Verdict, String>,
}

/// Who somebody has proved to be.
struct Proved {
    user: Text,
    /// A client that logs in with a gateway token gets its issuer's user, and no login of its own.
    login: Option<Text>,
    /// What it may log in with the next time.
    token: Option<Text>,
    service: bool,
}

/// Serves a connection to its end.
pub(super) async fn run(local: Arc<Local>, stream: TcpStream, read: Vec<u8>, remote: SocketAddr) {
    let limits = &local.config.limits;
    let wire = Wire::new(stream, read, limits).await;
    let outbox = wire.outbox.clone();
    let connection = Connection::new(limits.json());
    let hello_deadline = Instant::now() + Duration::from_millis(limits.hello_timeout_ms);
    let number = local.connections.fetch_add(1, Ordering::Relaxed);
    let mut session = Session {
        local,
        number,
        remote,
        wire,
        connection,
        outbox,
        settling: Settling::default(),
        held: None,
        attached: false,
        hello_deadline,
        challenges: 0,
        logins: FuturesUnordered::new(),
        warned: false,
    };
    let end = session.serve().await;
    // The others learn of it before the closing handshake, which may take its time.
    for id in session.connection.sessions().collect::<Vec<_>>() {
        let heard =
            (!matches!(end, End::Goodbye)).then(|| session.wire.heard(session.local.gateway.clock.now()));
        session.local.gateway.close_session(id, heard);
    }
    if let End::Close(CloseWith { code, reason }) = &end {
        tracing::info!(%remote, code, %reason, "connection closed");
    }
    session.wire.socket.close(end).await;
}

impl Session {
    async fn serve(&mut self) -> End {
        let mut ping =
            tokio::time::interval(Duration::from_millis(self.local.config.limits.ping_interval_ms));
        ping.reset();
        let outbox = self.outbox.clone();
        loop {
            let crowded = self.wire.waits_for();
            let held_until = self.held.as_ref().map(|held| held.until);
            let ended = tokio::select! {
                biased;
                () = outbox.changed(), if held_until.is_none() => self.write().await,
                () = relieved(crowded.as_ref()), if crowded.is_some() => {
                    self.wire.go_on();
                    None
                }
                heard = self.wire.socket.hear(), if crowded.is_none() => match heard {
                    Ok(Heard::Pong(content)) => self.settled(&content).await,
                    heard => self.read(heard),
                },
                () = until(held_until), if held_until.is_some() => {
                    self.settling.give_up();
                    self.write().await
                }
                Some(decided) = self.logins.next(), if !self.logins.is_empty() => {
                    self.decided(decided);
                    None
                }
                () = tokio::time::sleep_until(self.hello_deadline), if !self.attached && self.logins.is_empty() => {
                    let millis = self.local.config.limits.hello_timeout_ms;
                    Some(close(1008, format!("nobody logged in within {millis} ms (limit hello_timeout_ms)")))
                }
                _ = ping.tick() => self.wire.ping().await,
            };
            if let Some(end) = ended {
                return end;
            }
        }
    }

    fn read(&mut self, heard: Result<Heard, End>) -> Option<End> {
        let frame = match heard {
            Ok(Heard::Message(message)) => frame_of(message),
            Ok(Heard::Pong(content)) => {
                self.answered(&content);
                return None;
            }
            Err(end) => Err(end),
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(end) => return Some(end),
        };
        let warn = self.local.config.limits.message_bytes_warn;
        if frame.len() > warn && !self.warned {
            self.warned = true;
            let (remote, bytes) = (self.remote, frame.len());
            tracing::warn!(%remote, bytes, "a large message: more than {warn} bytes (limit message_bytes_warn); further ones of this connection are not noted");
        }
        let crowded = self.frame(&frame);
        self.wire.wait_for(crowded);
        None
    }

    /// Does what a frame asks for, and returns the outbox of a client that had better be waited for.
    fn frame(&mut self, frame: &Bytes) -> Option<Arc<Outbox>> {
        let gateway = self.local.gateway.clone();
        let max = self.local.config.limits.message_bytes_max;
        let incoming = match frame.len() > max {
            true => self.connection.refuse_large(frame, max),
            false => self.connection.decode(frame),
        };
        match incoming {
            Incoming::Command { session, command } => {
                let command = match command {
                    Command::Call { request, server, method, arguments, trace: None } => {
                        let trace = gateway.trace(traceparent(&arguments));
                        Command::Call { request, server, method, arguments, trace }
                    }
                    other => other,
                };
                return gateway.input(Input::Session { session, command });
            }
            Incoming::Hello { request, identity, login, authentication } => {
                self.hello(request, identity, &login, authentication);
            }
            Incoming::CreateToken { session, request } => {
                let user = gateway.look(|node| node.user_of(session)).unwrap_or_default();
                let token = self.local.tokens.make(Purpose::Gateway, &user, gateway.clock.wall_ms());
                self.outbox.push(Item::Frame(self.connection.token(session, &request, &token)));
            }
            Incoming::Reply(frame) => {
                self.outbox.push(Item::Frame(frame));
            }
            Incoming::Metrics => gateway.count_metrics(),
            Incoming::Nothing => {}
        }
        None
    }

    fn hello(&mut self, request: Request, identity: Json, login: &Login, authentication: Json) {
        let local = &self.local;
        let provider = match login {
            Login::GatewayToken(_) => None,
            Login::Provider(provider) => local.authenticators.of(provider),
            Login::Secret { .. } | Login::AccessToken(_) | Login::Unsupported(_) => {
                local.authenticators.of(BASIC)
            }
        };
        let own = match login {
            Login::Secret { .. } if provider.is_some() => Err(String::new()),
            login => local.prove(login),
        };
        match (own, provider) {
            (Ok(proved), _) => self.attach(request, identity, proved),
            (Err(_), Some(program)) => {
                let program = program.clone();
                self.ask(program, request, identity, authentication);
            }
            (Err(reason), None) => self.refuse(&request, &reason),
        }
    }

    fn ask(&mut self, program: Arc<Authenticator>, request: Request, identity: Json, authentication: Json) {
        if self.logins.len() >= LOGINS_MAX {
            self.refuse(&request, &format!("{LOGINS_MAX} logins of this connection are already waiting"));
            return;
        }
        let question = Question {
            connection: self.number,
            request: request.id.clone(),
            machine: self.remote.ip().to_string(),
            authentication,
        };
        self.logins.push(Box::pin(async move {
            Decided { request, identity, verdict: program.ask(question).await }
        }));
    }

    fn decided(&mut self, Decided { request, identity, verdict }: Decided) {
        match verdict {
            Ok(Verdict::Success { user, login, access_token, options }) => {
                let Some(name) = user.as_ref().or(login.as_ref()) else {
                    return self.refuse(&request, "the authentication program named no user");
                };
                let user = Text::from(name.as_str());
                let login = login.map_or_else(|| user.clone(), Text::from);
                let token = access_token.map(Text::from);
                self.attach(
                    request,
                    identity,
                    Proved { user, login: Some(login), token, service: options.service },
                );
            }
            Ok(Verdict::Continue { authentication }) => {
                self.challenges += 1;
                if self.challenges > CHALLENGES_MAX {
                    return self
                        .refuse(&request, &format!("more than {CHALLENGES_MAX} challenges for one login"));
                }
                // A person may have to look for a card.
                let limits = &self.local.config.limits;
                self.hello_deadline = Instant::now() + Duration::from_millis(limits.hello_timeout_ms);
                let authentication = Json::assembled(authentication.to_string().into_bytes());
                self.outbox.push(Item::Frame(self.connection.challenge(&request, &authentication)));
            }
            Ok(Verdict::Failure { message }) => {
                self.refuse(&request, message.as_deref().unwrap_or("the authentication program said no"));
            }
            Err(reason) => self.refuse(&request, &reason),
        }
    }

    fn refuse(&self, request: &Request, reason: &str) {
        self.outbox.push(Item::Frame(self.connection.login_failed(request, reason)));
    }

    fn attach(&mut self, request: Request, identity: Json, proved: Proved) {
        let Proved { user, login, token, service } = proved;
        self.attached = true;
        self.challenges = 0;
        let gateway = &self.local.gateway;
        let session = gateway.open_session(&self.outbox);
        self.connection.will_attach(session, token);
        let command = Command::Attach { request, identity, user: Some(user), login, service };
        gateway.input(Input::Session { session, command });
        if let Some(file) = gateway.sessions_file() {
            file.add(gateway, session);
        }
    }

    /// Writes what waits: all of it, or a part of much.
    async fn write(&mut self) -> Option<End> {
        let mut items = match self.held.take() {
            Some(held) => held.items,
            None => match self.outbox.take() {
                Taken::Items(items) => items,
                Taken::Mark => self.local.gateway.present_value(&self.outbox).into_iter().collect(),
                Taken::End(with) => return with.map(End::Close),
            },
        };
        if let Err(end) = self.write_items(&mut items).await {
            return Some(self.outbox.closed().map_or(end, End::Close));
        }
        if self.outbox.again() && self.wire.waits_for().is_none() && self.held.is_none() {
            // A client that is sent more than it can take is still heard.
            return self.wire.socket.hear().now_or_never().and_then(|heard| self.read(heard));
        }
        None
    }

    /// Takes it that the client has read what came before a ping, and writes what waited for that.
    async fn settled(&mut self, pong: &Bytes) -> Option<End> {
        let answered = self.answered(pong)?;
        match self.held.as_ref().is_some_and(|held| held.ping <= answered) {
            true => self.write().await,
            false => None,
        }
    }

    fn answered(&mut self, pong: &Bytes) -> Option<u64> {
        let answered = answer_of(pong)?;
        self.settling.answered(answered);
        Some(answered)
    }

    async fn write_items(&mut self, items: &mut VecDeque<Item>) -> Result<(), End> {
        let mut fed = 0;
        while let Some(item) = items.pop_front() {
            let frame = match item {
                Item::Event(session, event) => {
                    if let Some(ping) = self.settling.awaits(session, &event) {
                        items.push_front(Item::Event(session, event));
                        return self.hold(std::mem::take(items), ping).await;
                    }
                    self.settling.written(session, &event);
                    let frame = self.connection.encode(session, &event);
                    if matches!(event, Event::Refused { .. }) && self.connection.forget_refused(session) {
                        self.local.gateway.close_session(session, None);
                        self.attached = self.connection.sessions().next().is_some();
                    }
                    frame
                }
                Item::Frame(frame) | Item::Data(frame) => frame,
                // Neither is ever among what is taken.
                Item::Mark(..) | Item::Slot(_) | Item::Ended(_) => continue,
                Item::Close(with) => return Err(End::Close(with)),
            };
            self.wire.feed(frame).await?;
            fed += 1;
            if fed % FRAMES_PER_FLUSH == 0 {
                self.wire.flush().await?;
            }
        }
        self.wire.flush().await
    }

    /// Keeps these, and what comes later in the outbox, until a ping is answered. All of it waits, so that
    /// what a client is told keeps its order.
    async fn hold(&mut self, items: VecDeque<Item>, ping: u64) -> Result<(), End> {
        match self.settling.ping(ping) {
            Some(number) => self.wire.ask(number).await?,
            None => self.wire.flush().await?,
        }
        self.held = Some(Held { items, ping, until: Instant::now() + self.settling.patience() });
        Ok(())
    }
}

async fn until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

impl Local {
    /// Checks what the node itself can.
    fn prove(&self, login: &Login) -> Result<Proved, String> {
        let now = self.gateway.clock.wall_ms();
        let check = |purpose, token: &Text| self.tokens.check(purpose, token, now);
        match login {
            Login::Secret { login } => {
                let token = Some(self.tokens.make(Purpose::Access, login, now));
                Ok(Proved { user: login.clone(), login: Some(login.clone()), token, service: false })
            }
            Login::AccessToken(token) => check(Purpose::Service, token)
                .map(|user| (user, true))
                .or_else(|_| check(Purpose::Access, token).map(|user| (user, false)))
                .map(|(user, service)| {
                    let (login, token) = (Some(user.clone()), Some(token.detached()));
                    Proved { user, login, token, service }
                })
                .map_err(Into::into),
            Login::GatewayToken(token) => check(Purpose::Gateway, token)
                .map(|user| Proved { user, login: None, token: None, service: false })
                .map_err(Into::into),
            Login::Provider(provider) => Err(format!(
                "there is no authentication provider `{provider}`; an operator can name its program in authenticators"
            )),
            Login::Unsupported(reason) => Err(reason.to_string()),
        }
    }

    /// Refuses new connections and closes the open ones.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        let with = CloseWith { code: RESTART, reason: "the node is shutting down".into() };
        self.fdc3.close_all(&with);
        self.gateway.close_all(&with);
    }
}
