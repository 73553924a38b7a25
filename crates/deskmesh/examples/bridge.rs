//! A desktop agent bridge alone, with a node that knows no apps: something for `tests/bridge` to look at.
//!
//! ```text
//! cargo run -p deskmesh --example bridge -- 4475
//! ```

use std::process::ExitCode;
use std::sync::Arc;

use deskmesh::config::{Config, Flags};
use deskmesh::fdc3_bridge::{BridgeConfig, BridgeEvent, start};
use mesh_model::{Json, Text};
use proto_bridge::{Answered, BridgeSettings, ChannelsState, Message, MessageType};

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]
async fn main() -> ExitCode {
    let port = std::env::args().nth(1).and_then(|port| port.parse::<u16>().ok()).unwrap_or(4475);
    let node = match Config::load(Flags::default()) {
        Ok(loaded) => loaded.config,
        Err(error) => return error.report(),
    };
    let (handle, mut events) = start(BridgeConfig {
        node,
        ports: port..=port,
        name: Text::from_static("empty"),
        implementation: Json::from_static(
            r#"{"fdc3Version":"2.2","provider":"example","optionalFeatures":{"OriginatingAppMetadata":true,"UserChannelMembershipAPIs":true,"DesktopAgentBridging":true}}"#,
        ),
        settings: BridgeSettings::default(),
        channels: Arc::new(ChannelsState::default),
        tokens: None,
    });
    while let Some(event) = events.recv().await {
        let message = match event {
            BridgeEvent::Joined { name, port, role } => {
                println!("{name} takes part as {role:?} on port {port}");
                continue;
            }
            BridgeEvent::Left => continue,
            BridgeEvent::Message(message) => message,
        };
        let MessageType::Request(exchange) = message.message_type else { continue };
        if exchange.answered() == Answered::Never {
            continue;
        }
        let nothing = Json::from_static(r#"{"error":"NoAppsFound"}"#);
        let request = message.meta.request.unwrap_or_default();
        if handle.send(Message::response(exchange, request, nothing)).await.is_err() {
            eprintln!("the bridge has stopped");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
