//! A command is measured by what its process and this one use: this is a process of its own, since
//! other tests beside it would count.

use std::time::Duration;

use longshore_advise::command::CommandSample;
use longshore_core::lane::child::{Children, Command};

#[test]
fn a_command_that_waits_is_measured_several_at_once() {
    let command = Command { program: "sleep".into(), args: vec!["0.03".into()], ..Command::default() };
    let sample = CommandSample { command, samples: 3, budget: Duration::from_secs(10), most: 8, count: None };
    let measured = sample.measure(&Children::new().unwrap()).unwrap();
    assert!(measured.measurement.measured.item.share() < 0.6, "{measured:?}");
    assert!(measured.measurement.advice.workers >= 2, "{measured:?}");
    assert!(measured.max_rss > 0 && measured.measurement.runs > 3 && measured.spawn.is_some());
}
