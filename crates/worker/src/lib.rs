//! Tasks in Rust, served from a broker in Celery's wire format.
