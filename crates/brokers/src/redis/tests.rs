//! The suite on a real server, and what only Redis can get wrong.

mod acl;
mod faults;
mod idle;
mod kept;
mod kit;
mod large;
mod layout;
mod leases;
mod refusals;
mod speed;
mod ways;

use longshore_testkit::servers::Redis;

crate::conformance!(
    redis,
    match Redis::start(&[]) {
        Some(server) => kit::subject(server, ""),
        None => return,
    }
);

crate::conformance!(
    prefixed,
    match Redis::start(&[]) {
        Some(server) => kit::subject(server, "?global_keyprefix=app1&priority_steps=0,3,6,9&sep=%3A"),
        None => return,
    }
);
