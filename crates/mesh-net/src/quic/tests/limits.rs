//! What happens at the bounds of a link, by their names.

use super::*;

/// Returns a node and a link of its to a peer that reads nothing yet.
async fn with_silent_peer(limits: LinkLimits) -> (Node, LinkId, quinn::Connection) {
    let home = Home::found("ada");
    let a = bind(&home, limits);
    let connection = connect_as(Some(&home.another()), tls::ALPN_MESH, a.address).await.unwrap();
    let link = a.log.link().await;
    (a, link, connection)
}

#[tokio::test]
async fn a_queue_without_room_tells_when_there_is_room_again() {
    let limits = LinkLimits { session_queues_bytes_max: 4 << 20, ..LinkLimits::default() };
    let (a, link, connection) = with_silent_peer(limits).await;
    let refused = |share| {
        let send = |n| a.endpoint.send_within(link, Lane::Session(1), body(0, n, 60_000), share).err();
        (0..1_000).find_map(send).unwrap()
    };
    for round in 1..=2 {
        assert_eq!(refused(Share(75)), SendError::Overloaded(Lane::Session(1)));
        // What has all of the queue is told by its link's end.
        a.endpoint.send(link, Lane::Session(2), body(0, 0, 10)).unwrap();
        assert!(a.log.rows.lock().unwrap().eased < round, "nothing was read since");
        if round == 1 {
            let reader = connection.clone();
            tokio::spawn(async move {
                while let Ok(mut stream) = reader.accept_uni().await {
                    tokio::spawn(async move {
                        while let Ok(Some(_)) = stream.read_chunk(usize::MAX, true).await {}
                    });
                }
            });
        }
        a.log.until(|rows| (rows.eased == round).then_some(())).await;
    }
    assert!(a.log.rows.lock().unwrap().closed.is_empty());
}

#[tokio::test]
async fn control_queue_bytes_max_closes_the_link_and_says_so() {
    let limits = LinkLimits { control_queue_bytes_max: 1 << 20, ..LinkLimits::default() };
    let (a, link, connection) = with_silent_peer(limits).await;
    let send = |n| a.endpoint.send(link, Lane::Control, body(0, n, 60_000)).err();
    let error = (0..1_000).find_map(send).unwrap();
    assert_eq!(error, SendError::Overloaded(Lane::Control));
    let ended = a.log.closed().await;
    assert!(ended.starts_with("closed here") && ended.contains("limit control_queue_bytes_max"), "{ended}");
    drop(connection);
}

#[tokio::test]
async fn bulk_unfinished_bytes_max_closes_the_link_and_says_so() {
    let limits = LinkLimits { bulk_unfinished_bytes_max: 100_000, ..LinkLimits::default() };
    let (a, _, connection) = with_silent_peer(limits).await;
    let mut open = Vec::new();
    // Frames of 90 kB of which the last byte never comes.
    for _ in 0..2 {
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&[2]).await.unwrap();
        stream.write_all(&90_000_u32.to_le_bytes()).await.unwrap();
        // It may be cut off by the close that is waited for.
        let _ = stream.write_all(&vec![7; 89_999]).await;
        open.push(stream);
    }
    let ended = a.log.closed().await;
    assert!(ended.contains("limit bulk_unfinished_bytes_max of 100000"), "{ended}");
    assert!(a.log.rows.lock().unwrap().frames.is_empty());
    // Whole ones are handed on, and count no more.
    let (a, _, connection) =
        with_silent_peer(LinkLimits { bulk_unfinished_bytes_max: 100_000, ..LinkLimits::default() }).await;
    for count in 1..=3 {
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&[2]).await.unwrap();
        stream.write_all(&90_000_u32.to_le_bytes()).await.unwrap();
        stream.write_all(&vec![7; 90_000]).await.unwrap();
        stream.finish().unwrap();
        a.log.frames(count).await;
    }
    assert!(a.log.rows.lock().unwrap().closed.is_empty());
}

/// Takes a node's only place for handshakes until it gives that up.
async fn half_open(to: SocketAddr) -> tokio::task::JoinHandle<()> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        // A node without a certificate that does not ask to join is waited for as long as a join may take.
        let connection = connect_as(None, tls::ALPN_JOIN, to).await.unwrap();
        let _ = tell.send(());
        connection.closed().await;
    });
    told.await.unwrap();
    task
}

#[tokio::test]
async fn handshakes_max_refuses_whoever_comes_then() {
    for limits in [
        LinkLimits { handshakes_max: 1, ..LinkLimits::default() },
        LinkLimits { handshakes_per_source_max: 1, ..LinkLimits::default() },
    ] {
        let home = Home::found("ada");
        let a = bind(&home, limits);
        let other = home.another();
        let first = half_open(a.address).await;
        let refused = connect_as(Some(&other), tls::ALPN_MESH, a.address).await.unwrap_err();
        let ConnectionError::ConnectionClosed(close) = refused else { panic!("{refused}") };
        assert_eq!(close.error_code, quinn::TransportErrorCode::CONNECTION_REFUSED);
        first.abort();
        // The place is free when the other end is gone.
        let free = async { while connect_as(Some(&other), tls::ALPN_MESH, a.address).await.is_err() {} };
        timeout(Duration::from_secs(120), free).await.unwrap();
    }
}
