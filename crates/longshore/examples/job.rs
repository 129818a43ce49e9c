//! The first example: a hundred numbers, fifty at a time.
//!
//! `cargo run -p longshore --example job`

use longshore::Job;

fn main() {
    let report = Job::new(|n: u32| async move { if n == 13 { Err("unlucky") } else { Ok(n * n) } })
        .params(0..100)
        .workers(50)
        .on_task_complete(|task| match task.result() {
            Some(square) if square % 1000 == 0 => println!("task {:3}: {square}", task.id()),
            Some(_) => {}
            None => println!("task {:3}: {:?}", task.id(), task.outcome),
        })
        .on_job_complete(|report| println!("{} ok, {} failed in {:.1?}", report.ok(), report.failed(), report.wall))
        .run();
    assert_eq!((report.ok(), report.failed()), (99, 1));
}
