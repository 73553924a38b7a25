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
