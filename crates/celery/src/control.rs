//! Remote control: requests to all workers or to some, and their replies, as Celery's `status`,
//! `inspect` and `control` and Flower send and read them.
//!
//! Layout:
//! - `control/request.rs`: a request, and whom it is for
//! - `control/command.rs`: what is asked, with its arguments
//! - `control/arguments.rs`: arguments as Python binds them, and its errors where it cannot
//! - `control/reply.rs`: a reply
//! - `control/values.rs`: what replies say
//! - `control/settings.rs`: the settings that Celery's workers tell, recorded in
//!   `control/settings.json`

mod arguments;
mod command;
mod reply;
mod request;
mod settings;
mod values;

pub use command::{Command, Rate};
pub use reply::{Reply, error, ok};
pub use request::{Addressed, ReplyTo, Request};
pub use settings::settings;
pub use values::{
    Consumed, RegisteredTask, Stats, TaskView, hello, query_task, read_hello, read_registered, registered, revoked, scheduled,
    stamps_not_terminated, stamps_revoked, terminated,
};

/// The exchange that requests are published on. Of type fanout, the routing key is empty.
pub const EXCHANGE: &str = "celery.pidbox";

/// The exchange of replies. Of type direct, the routing key is the client's id.
pub const REPLY_EXCHANGE: &str = "reply.celery.pidbox";
