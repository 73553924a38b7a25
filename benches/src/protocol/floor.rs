//! The floor's conversations: the bytes of a GW3 call, understood by nobody.

use anyhow::Result;

use super::{
    Answer, Endpoints, Fan, Fanout, Invoke, Marker, NUMBER, Numbered, PAYLOAD_MARKER, Peer, SUBSCRIBERS,
    Wire, payload, plain_payload,
};
use crate::socket::Socket;

pub(super) async fn invoke(endpoints: Endpoints, run: u32) -> Result<Invoke> {
    let callee = Socket::connect(endpoints.far, &format!("/invoke-{run}/far")).await?;
    let caller = Socket::connect(endpoints.near, &format!("/invoke-{run}/near")).await?;
    let call = format!(
        r#"{{"type":"call","server_id":"p-2","method_id":"0","arguments_kv":{{"d":"{}"}},"request_id":"{NUMBER}","domain":"agm","peer_id":"p-4"}}"#,
        plain_payload()
    );
    Ok(Invoke {
        caller: Peer::new(caller, Wire::Frames),
        callee: Peer::new(callee, Wire::Frames),
        call: Numbered::new(call)?,
        reply: Marker::new(r#""request_id":""#, None),
        answer: Answer::Echo,
    })
}

pub(super) async fn fanout(fan: Fan, endpoints: Endpoints, run: u32) -> Result<Fanout> {
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let socket = Socket::connect(endpoints.far, &format!("/fan-{run}/far")).await?;
        subscribers.push(Peer::new(socket, Wire::Frames));
    }
    let publisher = Socket::connect(endpoints.near, &format!("/fan-{run}/near")).await?;
    let message = match fan {
        Fan::Stream => format!(
            r#"{{"type":"publish","stream_id":"0","data":{{"d":"{}"}},"request_id":"p","domain":"agm","peer_id":"p-2"}}"#,
            payload()
        ),
        Fan::Context => format!(
            r#"{{"type":"update-context","domain":"global","context_id":"c-3","delta":{{"commands":[{{"type":"set","path":"v","value":"{}"}}]}},"request_id":"u","peer_id":"p-2"}}"#,
            payload()
        ),
    };
    Ok(Fanout {
        publisher: Peer::new(publisher, Wire::Frames),
        subscribers,
        message: Numbered::new(message)?,
        seen: Marker::new(PAYLOAD_MARKER, None),
    })
}
