//! The suite on a real server, and what only RabbitMQ can get wrong.

use longshore_testkit::rabbit;

use crate::conformance::{Lacks, Subject};

/// A virtual host of its own, and a file for the results.
fn subject(url: String, options: &str) -> Subject {
    let directory = tempfile::tempdir().expect("a directory");
    let results = format!("sqlite:{}?sync=normal", directory.path().join("results.db").display());
    let url = format!("{url}{options}");
    let connect = move || crate::connect(&url, Some(&results)).expect("both are there");
    Subject {
        connect: Box::new(connect),
        keep: Box::new(directory),
        lacks: Lacks { held: true, bytes: true, front: true, innocence: true },
    }
}

// Without `turns`: what is sent ahead is served in the order in which it came. Without `priorities`: the smaller number is first in a queue, not among queues. Without `inspect`:
// nobody can look. Without `crashes`: nobody is accused. Without `one_store`: results are elsewhere.
crate::conformance!(
    classic,
    match rabbit::vhost() {
        Some(url) => subject(url, ""),
        None => return,
    },
    core,
    letters,
    junk
);

crate::conformance!(
    quorum,
    match rabbit::vhost() {
        Some(url) => subject(url, "?queue_type=quorum"),
        None => return,
    },
    core,
    letters,
    junk
);
