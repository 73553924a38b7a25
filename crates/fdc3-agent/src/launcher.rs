//! What launcher pages ask for, in JSON; what they are shown is in [`view`](crate::view).

use bytes::Bytes;
use mesh_model::json::members;
use mesh_model::{Json, Text};

use crate::{Agent, Time};

/// What becomes of a launcher's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It has been done.
    Done,
    /// It cannot be: a sentence for whoever looks at the page.
    Problem(String),
    /// The browser did not let the page open this address.
    Blocked(Text),
}

impl Agent {
    /// Takes a message of a launcher page.
    pub fn launcher_asks(&mut self, frame: &Bytes, now: Time) -> Asked {
        self.now = now;
        let Ok(asked) = members(frame, self.settings.json) else {
            return Asked::Problem("that is not a JSON object".to_owned());
        };
        let text = |name: &str| {
            let found = asked.iter().rev().find(|(key, _)| key.0 == name.as_bytes());
            found.and_then(|(_, value): &(_, Json)| value.as_text()).map(|text| text.detached())
        };
        let instance = text("instanceId").unwrap_or_default();
        match text("type").as_deref() {
            Some("launch") => {
                let app = text("appId").unwrap_or_default();
                match self.launch(&app, text("node").as_deref(), now) {
                    Ok(()) => Asked::Done,
                    Err(fault) => Asked::Problem(format!("`{app}` cannot be started: {}", fault.word())),
                }
            }
            Some("closed") => {
                self.window_closed(&instance, now);
                Asked::Done
            }
            // The page shows a button that opens it, or says that it is closed.
            Some("blocked") => Asked::Blocked(text("url").unwrap_or_default()),
            Some("join") => match self.move_to(&instance, text("channelId").as_ref(), now) {
                true => Asked::Done,
                false => Asked::Problem("there is no such app or user channel".to_owned()),
            },
            other => Asked::Problem(format!("unknown message `{}`", other.unwrap_or_default())),
        }
    }
}
