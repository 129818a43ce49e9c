//! HTTP requests as tasks: what a request looks like, the client that sends it, and what is kept of
//! the answer.
//!
//! Layout: [`HttpSpec`] is what the command line says (`spec`), [`HttpClient`] sends one request
//! and sorts its failures into kinds (`client`), [`HttpReply`] is what becomes of an answer
//! (`reply`). [`HttpPlan`] renders the templates (`plan`), [`Guard`] says where requests may go
//! (`guard`).
//!
//! Kinds of failure, as `--retry-on` names them:
//!
//! | kind | what happened |
//! |---|---|
//! | `connect` | name not found, refused, TLS handshake failed, or the connection was lost before the answer began |
//! | `timeout` | no connection, or no complete answer, in time |
//! | `status` | an answer whose status is not in `--ok`; the code is the status, the tail the end of its body |
//! | `redirect` | more redirects than allowed, or a loop |
//! | `forbidden` | the URL leads to where a task from a queue may not go; never tried again |
//! | `body` | the answer's body broke off or could not be decoded |
//! | `save` | the body could not be written to its file |
//! | `spool` | nor could the part of it that is too long to be kept |
//! | `invalid` | the URL, a header or the body that was to be sent is not valid; never tried again |

mod client;
mod guard;
mod plan;
mod reply;
mod spec;

pub use client::{Body, HttpClient, HttpOptions, Request, SPOOL};
pub use guard::Guard;
pub use plan::{HttpPlan, HttpWords};
pub use reply::{HttpReply, ReplyBody};
pub use spec::{BodySpec, HttpSpec, StatusRanges, encode_component, parse_header};

#[cfg(test)]
mod tests;
