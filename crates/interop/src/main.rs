//! The tasks of `tests/interop/labapp.py` in Rust, as a program: what the interop tests start as a worker, and drive as a client.

mod tasks;

fn main() {
    let app = tasks::app();
    eprintln!("labapp: {} tasks, but there is no worker in Rust yet", app.tasks().len());
    std::process::exit(69);
}
