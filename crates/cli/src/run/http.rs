//! HTTP requests as tasks: what a request looks like, the client that sends it, and what is kept of the answer.
//!
//! Layout: [`HttpSpec`] is what the command line says (`spec`), [`HttpClient`] sends one request and sorts its failures into kinds (`client`),
//! [`HttpReply`] is what becomes of an answer (`reply`). Templates are rendered elsewhere; here every text is final.
//!
//! Kinds of failure, as `--retry-on` names them:
//!
//! | kind | what happened |
//! |---|---|
//! | `connect` | name not found, refused, TLS handshake failed, or the connection was lost before the answer began |
//! | `timeout` | no connection, or no complete answer, in time |
//! | `status` | an answer whose status is not in `--ok`; the code is the status, the tail the end of its body |
//! | `redirect` | more redirects than allowed, or a loop |
//! | `body` | the answer's body broke off or could not be decoded |
//! | `save` | the body could not be written to its file |
//! | `invalid` | the URL, a header or the body that was to be sent is not valid; never tried again |

mod client;
mod reply;
mod spec;

pub use client::{Body, HttpClient, HttpOptions, Request};
pub use reply::{HttpReply, ReplyBody};
pub use spec::{BodySpec, HttpSpec, StatusRanges, encode_component, parse_header};

#[cfg(test)]
mod tests;
