//! The tasks of `tests/interop/labapp.py` in Rust, as a program with longshore's whole command
//! line: what the interop tests start as a worker (`labapp worker …`; where LAB_ONE_LANE is set,
//! with a single task; where LAB_SEED is, with that of seed 004). With `labapp client URL` it is a
//! client that is told by lines of JSON what to send.

mod client;
mod tasks;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("client") => client::run(&words.next().unwrap_or_default()),
        // What the tests may ask for.
        Some("can") => {
            let more = [(cfg!(feature = "kafka"), " kafka"), (cfg!(feature = "otel"), " otel")];
            let more: String = more.into_iter().filter_map(|(is_there, word)| is_there.then_some(word)).collect();
            println!("worker client started control msgpack autoscale amqp{more}");
            ExitCode::SUCCESS
        }
        _ if std::env::var_os("LAB_ONE_LANE").is_some() => longshore::main(&tasks::of_one_lane()),
        _ if std::env::var_os("LAB_SEED").is_some() => longshore::main(&tasks::of_the_seed()),
        _ => longshore::main(&tasks::app()),
    }
}
