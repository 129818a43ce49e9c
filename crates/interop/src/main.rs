//! The tasks of `tests/interop/labapp.py` in Rust, as a program: what the interop tests start as a worker, and drive as a client.

fn main() {
    eprintln!("labapp: there is no worker in Rust yet");
    std::process::exit(69);
}
