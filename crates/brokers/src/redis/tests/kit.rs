//! What the tests share.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use longshore_core::source::Fetched;
use longshore_testkit::servers::Redis;

use crate::{
    broker::{Broker, Consumer, OpenOptions},
    conformance::Subject,
    json,
    message::{Claimed, End, Ended, Finish, Outgoing},
    redis::both,
    results::{ChordPart, Key, Stored},
};

pub(super) fn subject(server: Redis, query: &str) -> Subject {
    let url = format!("{}{query}", server.url());
    Subject {
        connect: Box::new(move || both(&url).expect("a good URL")),
        keep: Box::new(server),
        lacks: crate::conformance::Lacks::default(),
    }
}

/// A URL of a port of the loopback.
pub(super) fn at(port: u16) -> String {
    format!("redis://127.0.0.1:{port}/0")
}

pub(super) async fn open(broker: &dyn Broker, lease: Duration, visibility_timeout: Duration) -> Arc<dyn Consumer> {
    let options = OpenOptions {
        queues: vec!["q".into()],
        lease,
        visibility_timeout,
        node: "test@here".to_owned(),
        early: false,
        order: crate::QueueOrder::InTurn,
        takes_delayed: false,
    };
    broker.open(options).await.unwrap()
}

pub(super) fn raw(id: &str) -> Vec<u8> {
    let filler = "x".repeat(400);
    format!(
        r#"{{"body": "W1tdLCB7fSwge31d", "content-encoding": "utf-8", "content-type": "application/json", "headers": {{"task": "t", "id": "{id}", "argsrepr": "{filler}"}}, "properties": {{"correlation_id": "{id}", "delivery_info": {{"exchange": "", "routing_key": "q"}}, "priority": 0, "body_encoding": "base64", "delivery_tag": "d-{id}"}}}}"#
    )
    .into_bytes()
}

pub(super) fn message(id: &str) -> Outgoing {
    Outgoing { queue: "q".into(), exchange: None, priority: 0, due: None, raw: raw(id) }
}

pub(super) fn id(claimed: &Claimed) -> String {
    json::task_id(&claimed.raw).unwrap().to_owned()
}

/// The end of a task with all that it can have: a message sent on, a result, a part of a chord.
pub(super) fn whole(claimed: &Claimed) -> Finish {
    let id = id(claimed);
    let doc = format!(r#"{{"status": "SUCCESS", "result": 1, "task_id": "{id}"}}"#).into_bytes();
    Finish {
        receipt: claimed.receipt,
        publish: vec![Outgoing { queue: "next".into(), exchange: None, priority: 0, due: None, raw: raw(&format!("next-{id}")) }],
        results: vec![Stored {
            key: Key::Task(id.clone()),
            doc,
            expires: Some(Duration::from_secs(600)),
            keep_success: false,
            reply_to: None,
        }],
        part: Some(ChordPart {
            group: "chord".into(),
            index: None,
            member: format!(r#"[1, "{id}", "SUCCESS", 1]"#).into_bytes(),
            expires: Duration::from_secs(600),
            token: format!("token-{id}"),
            id,
        }),
        end: End::Ack,
    }
}

/// What a worker did.
#[derive(Default, Debug)]
pub(super) struct Ledger {
    /// How often each was begun, and ended.
    pub(super) begun: BTreeMap<String, u32>,
    pub(super) ended: BTreeMap<String, u32>,
    pub(super) refused: u32,
    /// Through how many ends the chord was complete.
    pub(super) complete: u32,
}

/// Works until so many have ended.
pub(super) async fn work(consumer: &dyn Consumer, until: usize) -> Ledger {
    let mut ledger = Ledger::default();
    let mut claimed = Vec::new();
    while ledger.ended.len() < until {
        claimed.clear();
        if consumer.claim(20, &mut claimed).await.unwrap() == Fetched::End {
            break;
        }
        claimed.iter().for_each(|claimed| *ledger.begun.entry(id(claimed)).or_default() += 1);
        let batch: Vec<Finish> = claimed.iter().map(whole).collect();
        let ended = consumer.finish(&batch).await.unwrap();
        for (claimed, ended) in claimed.iter().zip(ended) {
            match ended {
                Ended::Refused => {
                    ledger.refused += 1;
                    continue;
                }
                Ended::Complete(_) => {
                    ledger.complete += 1;
                    let last = Finish { receipt: claimed.receipt, publish: vec![], results: vec![], part: None, end: End::Ack };
                    assert_eq!(consumer.finish(&[last]).await.unwrap(), [Ended::Done]);
                }
                Ended::Done => {}
                Ended::Impossible { reason } => panic!("{reason}"),
            }
            *ledger.ended.entry(id(claimed)).or_default() += 1;
        }
    }
    ledger
}
