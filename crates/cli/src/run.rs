//! The main job: records in, tasks run, journal and results out.
pub mod checks;
pub mod http;
pub mod input;
pub mod journal;
pub mod output;
pub mod pipe;
pub mod record;
pub mod template;
