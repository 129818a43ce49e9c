//! View of a run while it goes and when it ends: rendering only, from plain structs that the run
//! fills about ten times a second.
//!
//! Layout: [`view`] has the structs and picks the form; [`bar`] draws two lines in place, [`plain`]
//! writes a line or a JSON object now and then, [`voice`] says how much and in which form,
//! [`summary`] is the text or JSON at the end. Everything goes to stderr or a file, never to
//! stdout.

pub mod bar;
pub mod plain;
pub mod summary;
pub mod view;
pub mod voice;

pub use longshore_run::RateMeter;
pub use summary::Summary;
pub use view::{ColorMode, Mode, Progress, Slow, Snapshot};
pub use voice::{LogFormat, Voice};

pub(crate) use longshore_run::text;
