//! The words of a node's answers, and how people read them.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::asking::understood;
use super::{AdminError, Query};
use crate::output::{self, Cell, Table};

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Its id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub user: String,
    /// Which build it is.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How long it has been up, in seconds.
    pub uptime_s: u64,
    /// Where applications connect.
    pub listen: Vec<String>,
    /// Where other nodes connect.
    pub mesh: String,
    /// How many other nodes are connected.
    pub peers: u64,
    /// How many applications are connected to this node.
    pub sessions: u64,
    /// How many methods there are, on all nodes.
    pub methods: u64,
    /// How many shared contexts there are.
    pub contexts: u64,
    /// How many pieces of stream data and publications slow applications were not given.
    pub stream_events_dropped: u64,
    /// How many spans never reached the trace collector.
    pub spans_dropped: u64,
    /// How many messages about applications' own metrics were discarded.
    pub metrics_discarded: u64,
}

/// One other node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    /// Its id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// Whether it is reachable, in a word.
    pub state: String,
    /// The node that relays to it, if there is no direct link.
    #[serde(default)]
    pub by_way_of: Option<String>,
    /// How long a message takes there and back, in milliseconds, if that is known.
    pub rtt_ms: Option<f64>,
    /// How many applications are connected to it.
    pub sessions: u64,
    /// Which of its lives this is.
    pub incarnation: u64,
}

/// One application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppRow {
    /// Its instance.
    pub instance: String,
    /// Its name.
    pub application: String,
    /// Who it logged in as.
    pub user: String,
    /// The node it is connected to, by name.
    pub node: String,
    /// The machine it runs on.
    pub machine: String,
    /// Whether it is connected to the node that was asked.
    pub local: bool,
    /// How many methods it offers.
    pub methods: u64,
}

/// One method that one application offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodRow {
    /// Its name.
    pub name: String,
    /// Who offers it.
    pub application: String,
    /// Which instance.
    pub instance: String,
    /// On which node, by name.
    pub node: String,
    /// Whether it is a stream.
    pub streaming: bool,
    /// Whether it is offered at the node that was asked.
    pub local: bool,
}

/// One shared context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextRow {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub user: String,
    /// How large it is, as JSON.
    pub bytes: u64,
    /// How many applications hold it.
    pub members: u64,
    /// How many keys it has.
    pub keys: u64,
}

/// A token, for as long as it works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// The token.
    pub token: String,
    /// How long it works, in seconds.
    pub expires_in_s: u64,
}

impl Query {
    /// Returns an answer as people read it.
    pub(super) fn rendered(self, body: &str) -> Result<String, AdminError> {
        match self {
            Self::Status => Ok(understood::<Status>(body)?.render()),
            Self::Peers => table(
                body,
                &["NAME", "NODE", "ADDRESS", "STATE", "RTT MS", "APPS", "LIFE"],
                |row: PeerRow| {
                    vec![
                        Cell::text(row.name),
                        Cell::text(row.node.chars().take(8).collect::<String>()),
                        Cell::text(row.by_way_of.map_or(row.address, |name| format!("via {name}"))),
                        Cell::text(row.state),
                        Cell::number(row.rtt_ms.map_or("-".to_owned(), |rtt| format!("{rtt:.1}"))),
                        Cell::number(row.sessions),
                        Cell::number(row.incarnation),
                    ]
                },
            ),
            Self::Apps => table(
                body,
                &["APPLICATION", "INSTANCE", "USER", "NODE", "MACHINE", "LOCAL", "METHODS"],
                |row: AppRow| {
                    vec![
                        Cell::text(row.application),
                        Cell::text(row.instance),
                        Cell::text(row.user),
                        Cell::text(row.node),
                        Cell::text(row.machine),
                        Cell::yes(row.local),
                        Cell::number(row.methods),
                    ]
                },
            ),
            Self::Methods => table(
                body,
                &["METHOD", "APPLICATION", "INSTANCE", "NODE", "STREAM", "LOCAL"],
                |row: MethodRow| {
                    vec![
                        Cell::text(row.name),
                        Cell::text(row.application),
                        Cell::text(row.instance),
                        Cell::text(row.node),
                        Cell::yes(row.streaming),
                        Cell::yes(row.local),
                    ]
                },
            ),
            Self::Contexts => {
                table(body, &["CONTEXT", "USER", "BYTES", "MEMBERS", "KEYS"], |row: ContextRow| {
                    vec![
                        Cell::text(row.name),
                        Cell::text(row.user),
                        Cell::number(row.bytes),
                        Cell::number(row.members),
                        Cell::number(row.keys),
                    ]
                })
            }
        }
    }
}

impl Status {
    fn render(&self) -> String {
        let facts = [
            ("name", self.name.clone()),
            ("node", self.node.clone()),
            ("owner", self.user.clone()),
            ("version", self.version.clone()),
            ("process", self.pid.to_string()),
            ("up for", for_people(Duration::from_secs(self.uptime_s))),
            ("applications", self.listen.join(", ")),
            ("mesh", self.mesh.clone()),
            ("peers", self.peers.to_string()),
            ("sessions", self.sessions.to_string()),
            ("methods", self.methods.to_string()),
            ("contexts", self.contexts.to_string()),
            ("stream lost", self.stream_events_dropped.to_string()),
            ("spans lost", self.spans_dropped.to_string()),
            ("metrics", format!("{} discarded", self.metrics_discarded)),
        ];
        let mut text = String::new();
        for (name, value) in facts {
            let value = if value.is_empty() { "-".to_owned() } else { output::printable(&value) };
            text.push_str(&format!("{name:<14}{value}\n"));
        }
        text
    }
}

/// Returns an array of rows as a table.
fn table<Row: DeserializeOwned>(
    body: &str,
    titles: &[&'static str],
    cells: impl Fn(Row) -> Vec<Cell>,
) -> Result<String, AdminError> {
    let mut table = Table::new(titles);
    for row in understood::<Vec<Row>>(body)? {
        table.push(cells(row));
    }
    Ok(table.render())
}

fn for_people(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_tables() {
        for (query, body, expected) in [
            (
                Query::Peers,
                r#"[{"node":"abababababababababababababababab","name":"desk-2","address":"10.0.0.2:8386","state":"up",
                     "rtt_ms":0.42,"sessions":3,"incarnation":9},
                    {"node":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","name":"desk-3","address":"","state":"down",
                     "rtt_ms":null,"sessions":0,"incarnation":12},
                    {"node":"efefefefefefefefefefefefefefefef","name":"desk-4","address":"10.0.0.4:8386","state":"up",
                     "by_way_of":"desk-2","rtt_ms":1.0,"sessions":1,"incarnation":2}]"#,
                "\
NAME    NODE      ADDRESS        STATE  RTT MS  APPS  LIFE
desk-2  abababab  10.0.0.2:8386  up        0.4     3     9
desk-3  cdcdcdcd  -              down        -     0    12
desk-4  efefefef  via desk-2     up        1.0     1     2
",
            ),
            (
                Query::Apps,
                r#"[{"instance":"i1","application":"blotter","user":"ann","node":"desk-1","machine":"m1",
                     "local":true,"methods":2}]"#,
                "\
APPLICATION  INSTANCE  USER  NODE    MACHINE  LOCAL  METHODS
blotter      i1        ann   desk-1  m1       yes          2
",
            ),
            (
                Query::Methods,
                r#"[{"name":"Quotes.Get","application":"quotes","instance":"i2","node":"desk-2",
                     "streaming":false,"local":false}]"#,
                "\
METHOD      APPLICATION  INSTANCE  NODE    STREAM  LOCAL
Quotes.Get  quotes       i2        desk-2  no      no
",
            ),
            (
                Query::Contexts,
                r#"[{"name":"___channel___Red","user":"ann","bytes":120,"members":2,"keys":1}]"#,
                "\
CONTEXT           USER  BYTES  MEMBERS  KEYS
___channel___Red  ann     120        2     1
",
            ),
            (Query::Contexts, "[]", "CONTEXT  USER  BYTES  MEMBERS  KEYS\n"),
        ] {
            assert_eq!(query.rendered(body).unwrap(), expected);
        }
        assert!(matches!(Query::Apps.rendered(r#"[{"a":1}]"#), Err(AdminError::NotUnderstood(_))));
    }

    #[test]
    fn status_is_a_page() {
        let status = Status {
            name: "desk-1".into(),
            uptime_s: 3_725,
            listen: vec!["127.0.0.1:8385".into()],
            ..Status::default()
        };
        let page = Query::Status.rendered(&serde_json::to_string(&status).unwrap()).unwrap();
        assert!(page.starts_with("name          desk-1\nnode          -\n"), "{page}");
        assert!(page.contains("up for        1 h 2 min\napplications  127.0.0.1:8385\n"), "{page}");
    }

    #[test]
    fn times_for_people() {
        for (seconds, expected) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3_600, "1 h 0 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(for_people(Duration::from_secs(seconds)), expected);
        }
    }
}
