//! `#[longshore::task]`
