//! Runs that showed what was wrong once: few tasks, and the faults that it took.

use crate::{
    Sabotage,
    drive::{simulate, trace},
    plan::{Fault, Kind, Plan, Trouble, Unit},
};

/// A full lane held up tasks whose slots came meanwhile; then all of them started together.
#[test]
fn what_a_full_lane_held_up_does_not_start_at_once() {
    for (name, slots) in [("shared", 1), ("shared", 3), ("rated", 1), ("rated", 3)] {
        let long = vec![Kind::Ok(3_000); 3 * slots];
        let plan = Plan::of(slots, &long, |plan| Unit::Group((0..36).map(|_| plan.add(Kind::Ok(1), name)).collect()), Vec::new());
        let run = simulate(&plan, Sabotage::None, true);
        assert!(run.is_ok(), "{name}, {slots} slots: {}", run.err().map_or_else(String::new, |violation| violation.what));
    }
}

/// Who was cut off while it sent a chord's body sent it later, though another worker had sent it
/// meanwhile.
#[test]
fn a_body_that_another_worker_has_sent_is_not_sent_again() {
    let mut rescued = 0;
    for at in 0..40 {
        let cut = |node| Trouble { at: 1_000 + 20 * at, node, fault: Fault::Cut(9_000) };
        let troubles = vec![Trouble { at: 0, node: 0, fault: Fault::Slow(80) }, cut(0), cut(1)];
        let chord = |plan: &mut Plan| {
            let parts = (0..4).map(|place| plan.add(Kind::Ok(900 + 10 * place), "plain")).collect();
            plan.chord(parts)
        };
        let told = trace(&Plan::of(2, &[], chord, troubles));
        let when = |what: &str| told.iter().filter(|(_, line)| line.contains(what)).map(|(at, _)| *at).collect::<Vec<_>>();
        let (sent, over) = (when("t4 is sent"), 1_000 + 20 * at + 9_000);
        // Who cannot say that the body is sent lets another one send it: that is before the cut is
        // over.
        assert!(sent.len() == 1 || sent.iter().all(|at| *at < over), "cut off at {at}, it is sent at {sent:?}");
        rescued += usize::from(!when("comes back").is_empty() && sent.iter().all(|sent| *sent > over - 9_000));
    }
    assert!(rescued > 0, "only {rescued} of the cuts came between the last part and the body");
}

/// A worker that gave up while its word was on the way to the broker counted what it had told as
/// handed back.
#[test]
fn what_a_worker_told_and_got_no_answer_for_is_neither_done_nor_handed_back() {
    let mut untold = 0;
    for at in 0..40 {
        // It is told to stop while it is cut off, and stands still as soon as it has told its last.
        let fault = |at, fault| Trouble { at, node: 0, fault };
        let stop = [fault(1_000, Fault::Cut(4_300)), fault(2_400, Fault::Cold), fault(5_000, Fault::Cut(6_000))];
        let rest = [fault(0, Fault::Slow(60)), fault(10_900 + 10 * at, Fault::Freeze(10_000))];
        let group = |plan: &mut Plan| Unit::Group((0..4).map(|_| plan.add(Kind::Ok(100), "plain")).collect());
        let plan = Plan::of(2, &[Kind::Ok(300); 60], group, stop.into_iter().chain(rest).collect());
        let run = simulate(&plan, Sabotage::None, true);
        assert!(run.is_ok(), "{at}: {}", run.err().map_or_else(String::new, |violation| violation.what));
        untold += trace(&plan).iter().filter(|(_, line)| line.contains("has stopped") && !line.contains("untold: 0")).count();
    }
    assert!(untold > 0, "every word was answered");
}
