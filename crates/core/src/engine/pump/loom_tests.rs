//! Every interleaving of the pump and the loop (up to three preemptions). Run with
//! `RUSTFLAGS="--cfg longshore_loom" cargo test -p longshore-core --lib --target-dir target/loom
//! loom_tests`.

use super::*;
use loom::{future::block_on, sync::Arc, thread};

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

/// The loop takes what comes and grants room for the next; the pump brings one at a time.
/// `send_off` is the pump's note, before or after its post.
fn two_rounds(early: bool) {
    let (pump, mailbox) = (Arc::new(Pump::new()), Arc::new(Mailbox::<Vec<u32>>::new()));
    let pumping = {
        let (pump, mailbox) = (pump.clone(), mailbox.clone());
        thread::spawn(move || {
            for nth in 0.. {
                let room = block_on(pump.some_room());
                if pump.is_closed() {
                    return;
                }
                assert!(nth < 2 && room == 1, "room for {room} after {nth}");
                if early {
                    pump.send_off(1);
                    mailbox.post_quietly(|mail| mail.push(nth));
                } else {
                    pump.travelling.fetch_add(1, Ordering::AcqRel);
                    mailbox.post_quietly(|mail| mail.push(nth));
                    pump.low.store(false, Ordering::Release);
                }
            }
        })
    };
    let mut took = 0;
    for nth in 0..2 {
        pump.set_room(1, took, true);
        let mut mail = Vec::new();
        block_on(std::future::poll_fn(|cx| mailbox.poll_take(&mut mail, true, cx)));
        assert_eq!(mail, [nth]);
        took = 1;
    }
    pump.close();
    pumping.join().unwrap();
}

#[test]
fn a_pump_is_woken_for_every_room_it_is_granted() {
    model(|| two_rounds(true));
}

#[test]
fn room_granted_while_a_fetch_comes_back_is_seen() {
    model(|| {
        let pump = Arc::new(Pump::new());
        pump.fetching.store(true, Ordering::Relaxed);
        let looping = {
            let pump = pump.clone();
            thread::spawn(move || pump.set_room(1, 0, true))
        };
        pump.came_back();
        assert_eq!(block_on(pump.some_room()), 1);
        looping.join().unwrap();
    });
}

/// A planted bug, found by reading at first: the pump says that the loop does not run low after it
/// has posted, and so takes back what the loop has said meanwhile.
#[test]
fn a_pump_that_takes_back_what_the_loop_said_is_found_out() {
    crate::mailbox::loom_tests::assert_found_out("engine::pump::loom_tests::planted_taking_back_what_the_loop_said");
}

#[test]
#[ignore = "a planted bug, run by the test above"]
fn planted_taking_back_what_the_loop_said() {
    model(|| two_rounds(false));
}
