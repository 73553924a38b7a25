//! The floors: what moving a frame costs before anybody understands it.
//!
//! A floor relay takes WebSocket frames from the `near` side of a room and sends each to everybody on its
//! `far` side, and the other way round. It reads nothing but frame headers. Whatever a mesh adds on top of
//! this (parsing, routing, authority, observation) is the price of being a mesh.
//!
//! Both floors are built the way a node is allowed to be built: one thread, inline writes from the reading
//! task, one write per batch that one read brought, and no channel in between.

pub(crate) mod quic;
pub(crate) mod ws;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};

use crate::socket::Writer;

/// Who is connected where. A room is named by the path of the WebSocket: `/ROOM/near` or `/ROOM/far`.
#[derive(Debug, Default)]
pub(crate) struct Rooms(RefCell<BTreeMap<String, Rc<Room>>>);

impl Rooms {
    /// The room of that name, made on first use.
    pub(crate) fn enter(&self, name: &str) -> Rc<Room> {
        self.0.borrow_mut().entry(name.to_owned()).or_default().clone()
    }
}

/// The two sides of a room.
#[derive(Debug, Default)]
pub(crate) struct Room {
    near: Group,
    far: Group,
}

impl Room {
    /// Everybody on that side.
    pub(crate) fn group(&self, side: Side) -> &Group {
        match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        }
    }
}

/// The connections of one side of a room.
#[derive(Debug, Default)]
pub(crate) struct Group(RefCell<Vec<Rc<Writer>>>);

impl Group {
    fn join(&self, writer: &Rc<Writer>) {
        self.0.borrow_mut().push(writer.clone());
    }

    fn leave(&self, writer: &Rc<Writer>) {
        self.0.borrow_mut().retain(|other| !Rc::ptr_eq(other, writer));
    }

    /// Sends whole frames to everybody in the group, one write each.
    pub(crate) async fn send(&self, frames: &[u8]) -> Result<()> {
        let mut at = 0;
        loop {
            let Some(writer) = self.0.borrow().get(at).cloned() else { return Ok(()) };
            // A member that has gone is removed by its own task.
            let _ = writer.send(frames).await;
            at += 1;
        }
    }
}

/// A side of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Callers and publishers.
    Near,
    /// Callees and subscribers.
    Far,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Near => Self::Far,
            Self::Far => Self::Near,
        }
    }
}

/// Splits a WebSocket path into room and side.
fn parse_path(path: &str) -> Result<(&str, Side)> {
    let (room, side) =
        path.trim_start_matches('/').split_once('/').context("a path is /ROOM/near or /ROOM/far")?;
    match side {
        "near" => Ok((room, Side::Near)),
        "far" => Ok((room, Side::Far)),
        other => bail!("a path ends in near or far, not {other:?}"),
    }
}
