//! Cases that every adapter must pass, each a test of its own. An adapter's test module has one
//! line:
//! ```ignore
//! crate::conformance!(memory, subject());
//! ```
//! where `subject()` makes a [`Subject`] on a store that is new and empty. Real clocks: the cases
//! wait for what must happen, not for time.
//!
//! Layout: `conformance/kit.rs`: messages, and waiting with a limit;
//! `conformance/{queues,endings,crashes,bus,results,chords,shared,schedules}.rs`: the cases

mod bus;
mod chords;
mod crashes;
mod endings;
mod kit;
mod queues;
mod results;
mod schedules;
mod shared;

use std::{any::Any, time::Duration};

pub use self::{bus::*, chords::*, crashes::*, endings::*, kit::LEASE, queues::*, results::*, schedules::*, shared::*};
use crate::connected::Connected;

/// One store, to be connected to several times.
pub struct Subject {
    /// Connects once more, as another process would: nothing shared but the store.
    pub connect: Box<dyn Fn() -> Connected + Send + Sync>,
    /// What must live as long as the store.
    pub keep: Box<dyn Any + Send + Sync>,
    /// Abilities of all others that it has not.
    pub lacks: Lacks,
}

/// Abilities that a broker may lack, of those that all must have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lacks {
    /// It cannot say how many messages are lent.
    pub held: bool,
    /// It carries a message in parts, and forgets their order.
    pub bytes: bool,
    /// What is handed back comes behind what was sent ahead, or to the end of its queue.
    pub front: bool,
    /// It cannot tell what was handed back from what a worker died with.
    pub innocence: bool,
}

/// Runs one case, which fails after a minute at the latest.
///
/// # Panics
/// If the case fails.
pub async fn run<F: Future<Output = ()>>(subject: Subject, case: impl FnOnce(std::sync::Arc<Subject>) -> F) {
    let subject = std::sync::Arc::new(subject);
    let done = tokio::time::timeout(Duration::from_secs(60), case(subject)).await;
    assert!(done.is_ok(), "it takes more than a minute");
}

/// Makes a module of this name with all cases, or with those of the groups that are named, each on
/// a [`Subject`] of its own, which the expression makes. A broker names the groups whose halves it
/// has, or has beside it:
///
/// | group | what it asks for |
/// |---|---|
/// | `core` | what [`Broker`](crate::Broker) and [`Consumer`](crate::Consumer) must do |
/// | `turns` | the order in which queues are served that all have something |
/// | `priorities` | the smaller number first, whatever the queue |
/// | `letters`, `junk` | [`DeadLetters`](crate::DeadLetters); with junk apart from the others |
/// | `inspect` | [`Inspect`](crate::Inspect) |
/// | `crashes` | [`accuse`](crate::Consumer::accuse): only who is to blame is counted |
/// | `bus` | [`Bus`](crate::Bus) |
/// | `shared` | [`SharedState`](crate::SharedState) |
/// | `schedules` | [`Schedules`](crate::Schedules) |
/// | `results`, `chords` | [`ResultBackend`](crate::ResultBackend) |
/// | `one_store` | results that are stored in the step that ends their message; due times that are
/// noted in the step that sends theirs |
#[macro_export]
macro_rules! conformance {
    ($name:ident, $subject:expr) => {
        $crate::conformance!($name, $subject, core, turns, priorities, letters, junk, inspect, crashes, bus, shared, schedules, results, chords, one_store);
    };
    ($name:ident, $subject:expr, $($group:ident),+) => {
        mod $name {
            #[allow(unused_imports, reason = "the expression may name what stands beside the module")]
            use super::*;
            $($crate::conformance! { @ $group, $subject })+
        }
    };
    (@ core, $subject:expr) => {
        $crate::conformance! { = $subject,
            messages_come_in_the_order_in_which_they_were_published
            no_more_is_claimed_than_there_is_room_for
            close_wakes_an_idle_claim_and_nothing_is_claimed_afterwards
            a_publish_wakes_an_idle_claim
            each_message_is_lent_once_to_many_consumers
            a_claimed_message_can_be_loaded_again
            a_queue_can_be_taken_into_service_and_out_of_it
            purge_throws_away_what_waits
            a_ping_names_the_system
            an_acknowledged_message_is_gone
            a_message_goes_back_to_the_front_or_to_the_back
            a_kept_message_stays_claimed
            what_was_finished_is_refused
            the_endings_of_a_batch_are_told_in_order
            what_was_claimed_before_a_close_is_finished_after_it
            a_consumer_that_leaves_hands_back_to_the_front
            what_is_given_is_forgotten_unless_it_is_held
            the_messages_of_a_dead_consumer_come_back
        }
    };
    (@ turns, $subject:expr) => {
        $crate::conformance! { = $subject,
            queues_take_turns
            a_queue_has_its_share_of_claims_by_its_weight
            in_strict_order_a_queue_waits_for_those_before_it
        }
    };
    (@ priorities, $subject:expr) => {
        $crate::conformance! { = $subject,
            a_smaller_priority_is_served_first_whatever_its_queue
        }
    };
    (@ letters, $subject:expr) => {
        $crate::conformance! { = $subject,
            dead_letters_are_shown_retried_and_thrown_away
        }
    };
    (@ junk, $subject:expr) => {
        $crate::conformance! { = $subject,
            so_much_junk_pushes_no_dead_letter_out
        }
    };
    (@ inspect, $subject:expr) => {
        $crate::conformance! { = $subject,
            what_is_due_later_is_not_run_before_and_soon_after
            a_paused_queue_gives_nothing_until_it_is_resumed
            a_look_takes_nothing
            a_look_ahead_finds_words_near_both_ends_of_the_next_messages
            transfer_moves_what_waits_in_order
            a_task_is_found_where_it_is
            all_that_lies_in_the_queues_is_listed
        }
    };
    (@ crashes, $subject:expr) => {
        $crate::conformance! { = $subject,
            an_eta_ahead_is_innocent_of_a_crash
            only_the_accused_of_a_second_crash_is_blamed
            the_third_crash_comes_with_the_message_and_is_forgotten_by_a_retry
        }
    };
    (@ bus, $subject:expr) => {
        $crate::conformance! { = $subject,
            a_broadcast_reaches_those_who_listen_by_their_pattern
            a_reply_reaches_the_client_that_asked
            what_a_slow_listener_has_no_room_for_is_counted
        }
    };
    (@ shared, $subject:expr) => {
        $crate::conformance! { = $subject,
            a_rate_is_kept_by_all_who_share_it
            the_slots_of_a_rate_are_evenly_spaced_and_not_far_ahead
            a_changed_rate_holds_behind_what_is_reserved
            an_idle_rate_saves_up_no_more_than_its_burst
            a_rate_that_is_set_holds_for_all_buckets_of_its_limit
            revoked_ids_are_known_to_whoever_comes_later
            the_oldest_of_too_many_revoked_ids_are_forgotten
            a_run_is_noted_by_one_worker_at_a_time
            what_is_to_be_sent_once_is_for_one_to_send_at_a_time
            a_note_of_a_sending_ends_with_its_time
        }
    };
    (@ schedules, $subject:expr) => {
        $crate::conformance! { = $subject,
            schedules_are_kept_listed_paused_and_forgotten
            what_a_schedule_says_changes_and_its_times_go_on
            one_of_two_schedulers_leads_until_it_leaves_or_its_term_is_over
            a_change_of_the_schedules_is_seen_by_who_leads
            a_due_time_is_noted_once_and_by_who_leads
        }
    };
    (@ results, $subject:expr) => {
        $crate::conformance! { = $subject,
            a_document_is_stored_read_and_forgotten
            a_success_stays_if_it_is_asked_to
            a_document_expires
            what_is_stored_is_read_page_by_page
            what_is_stored_before_and_after_a_watch_arrives
        }
    };
    (@ chords, $subject:expr) => {
        $crate::conformance! { = $subject,
            a_chord_is_complete_once_and_its_parts_are_in_order
            a_part_that_is_told_twice_counts_once
            one_of_many_parts_at_once_has_the_right
            a_right_that_runs_out_passes_on
            a_chord_that_is_over_stays_over
            a_part_that_comes_before_its_chord_begins_again_is_not_lost
            a_chord_can_grow
        }
    };
    (@ one_store, $subject:expr) => {
        $crate::conformance! { = $subject,
            broker_and_results_agree_that_they_are_one_store
            what_was_handed_back_is_refused_whole
            one_finish_publishes_stores_and_ends
            a_finish_that_completes_a_chord_keeps_its_message
            a_due_time_sends_its_message_in_the_step_that_notes_it
            a_message_that_is_refused_is_not_noted
        }
    };
    (= $subject:expr, $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::conformance::run($subject, $crate::conformance::$case).await;
            }
        )*
    };
}
