//! The scripts that run inside the server. They move bytes: what a message says is read in Rust,
//! but for the queue and the time by which what is parked is counted.

use super::resp::Script;

pub(super) static CLAIM: Script = Script::new("claim", concat!(include_str!("scripts/take.lua"), include_str!("scripts/claim.lua")));
pub(super) static CLAIM_EARLY: Script =
    Script::new("claim_early", concat!(include_str!("scripts/take.lua"), include_str!("scripts/claim_early.lua")));
pub(super) static HOLD: Script = Script::new("hold", include_str!("scripts/hold.lua"));
pub(super) static FINISH: Script = Script::new(
    "finish",
    concat!(
        include_str!("scripts/push.lua"),
        include_str!("scripts/chord_part.lua"),
        include_str!("scripts/keep.lua"),
        include_str!("scripts/finish.lua")
    ),
);
pub(super) static PART: Script = Script::new("part", concat!(include_str!("scripts/chord_part.lua"), "return count_part(unpack(ARGV))"));
pub(super) static PUBLISH: Script = Script::new("publish", concat!(include_str!("scripts/push.lua"), include_str!("scripts/publish.lua")));
pub(super) static DOUBT: Script = Script::new("doubt", include_str!("scripts/doubt.lua"));
pub(super) static BEAT: Script = Script::new("beat", include_str!("scripts/beat.lua"));
pub(super) static ENTER: Script = Script::new("enter", include_str!("scripts/enter.lua"));
pub(super) static PASS: Script = Script::new("pass", include_str!("scripts/pass.lua"));
pub(super) static RESTORE: Script = Script::new("restore", concat!(include_str!("scripts/push.lua"), include_str!("scripts/restore.lua")));
pub(super) static TRANSFER: Script = Script::new("transfer", include_str!("scripts/transfer.lua"));
pub(super) static LOOK_AHEAD: Script = Script::new("look_ahead", include_str!("scripts/look_ahead.lua"));
pub(super) static HELD: Script = Script::new("held", include_str!("scripts/held.lua"));
pub(super) static FIND_HELD: Script = Script::new("find_held", include_str!("scripts/find_held.lua"));
pub(super) static BURY: Script = Script::new("bury", include_str!("scripts/bury.lua"));
pub(super) static STORE: Script = Script::new("store", concat!(include_str!("scripts/keep.lua"), include_str!("scripts/store.lua")));
pub(super) static CHORD_EXTEND: Script = Script::new("chord_extend", include_str!("scripts/chord_extend.lua"));
pub(super) static RESERVE: Script = Script::new("reserve", include_str!("scripts/reserve.lua"));
pub(super) static SCHEDULES: Script =
    Script::new("schedules", concat!(include_str!("scripts/push.lua"), include_str!("scripts/schedules.lua")));
pub(super) static REVOKE: Script = Script::new("revoke", include_str!("scripts/revoke.lua"));
pub(super) static RUNS: Script = Script::new("runs", include_str!("scripts/runs.lua"));
pub(super) static END_SEND: Script = Script::new("end_send", include_str!("scripts/end_send.lua"));
pub(super) static SENDS: Script = Script::new("sends", include_str!("scripts/sends.lua"));
pub(super) static REVOKED: Script = Script::new("revoked", include_str!("scripts/revoked.lua"));
pub(super) static CHORD_OVER: Script = Script::new("chord_over", include_str!("scripts/chord_over.lua"));
