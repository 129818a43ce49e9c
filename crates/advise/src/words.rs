//! A guess from words: what a description of the work sounds like.
//!
//! Layout:
//! - `words/lesson.rs`: a lesson's two helpers and its decision tree, as they are
//! - `words/list.rs`: our list of words, matched whole and by their stem
//! - `words/pace.rs`: a pace that the text asks for
//! - `words/ours.rs`: one decision in their place, and how it settles what they contradict each
//!   other about
//!
//! A guess is only that. [`measure`](crate::measure) knows.

mod lesson;
mod list;
mod ours;
mod pace;

pub use lesson::{Approach, Branch, Looks, Scored, Task, choose_concurrency_approach, concurrency_decision_helper, decision_tree};
pub use list::{Hit, Weight, hits, stem};
pub use ours::{DataSize, Guess, Question, WORTH_IT, guess};
pub use pace::Pace;
