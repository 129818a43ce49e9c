//! Reads longshore's own source, without compiling it: for `tests/tidy.rs`, which holds the rules
//! of the house, and for the yardstick (`cargo run -p longshore-tidy -- TREE`), which prints where
//! a tree stands.
//!
//! ```text
//! lex ──▶ items ──▶ tree ──▶ paths ──▶ circles · api
//!                     └────▶ measures
//! ```
//!
//! The source is read and not compiled, so a tree of any commit can be measured. What a macro makes
//! is not seen.

pub mod api;
pub mod circles;
pub mod items;
pub mod lex;
pub mod measures;
pub mod paths;
pub mod tree;
