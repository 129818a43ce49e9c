//! Conformance suites and the simulator of longshore's engine. For tests alone.
//!
//! Layout:
//! - `simulator.rs`: random runs of the engine on a paused clock, with every invariant checked;
//!   `simulator/{plan,world,actors}.rs`
//! - `left_out.rs`: what a test says when something that it needs is not there
//! - `servers.rs` (Redis), `kafka.rs`, `rabbit.rs`: real servers for tests, each a `process.rs`;
//!   `rabbit/raw.rs`: frames by hand; `proxy.rs`: a relay that loses what it carries
//! - `conformance.rs`: what every source, sink and lane must do:
//!   `conformance/{source,sink,lane}.rs`

pub mod conformance;
pub mod kafka;
pub mod left_out;
pub mod process;
pub mod proxy;
pub mod rabbit;
pub mod servers;
pub mod simulator;
