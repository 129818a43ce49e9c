//! The suite on a real server, and what only Redis can get wrong.

use longshore_testkit::servers::Redis;

use crate::conformance::Subject;

fn subject(server: Redis) -> Subject {
    let url = server.url();
    Subject { connect: Box::new(move || super::both(&url).expect("a good URL")), keep: Box::new(server) }
}

crate::conformance!(
    redis,
    match Redis::start(&[]) {
        Some(server) => subject(server),
        None => return,
    }
);
