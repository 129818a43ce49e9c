//! Advice on which lane, how many workers, and what they may bring: guessed from words, or
//! measured.
//!
//! Layout:
//! - `advice.rs`: what is advised, whichever way it was found
//! - `words.rs`: a guess from a description: `words/{lesson,list,ours}.rs`
//! - `measure.rs`: a sample is run and timed: `measure/{solo,runs,ladder,memory}.rs`
//! - `decide.rs`: from measurements to advice, a pure function: `decide/{model,reasons}.rs`
//! - `command.rs`: the same for a command that is run as a child
//! - `map.rs`: runs items the way that was advised
//!
//! ```
//! use std::time::Duration;
//! use longshore_advise::{Place, advise};
//!
//! let advice = advise(|_: u32| std::thread::sleep(Duration::from_millis(2)), (0..64).collect()).unwrap();
//! assert!(matches!(advice.place, Place::Lane(_)) && advice.workers > 1, "sleeping is done best in company: {advice:?}");
//! for reason in &advice.reasons {
//!     println!("{reason}");
//! }
//! ```

mod advice;
pub mod command;
pub mod decide;
mod map;
pub mod measure;
mod show;
pub mod words;

pub use advice::{Advice, Bound, Place, SpeedUp};
pub use map::map;
pub use measure::{Measure, MeasureError, Measurement, advise, advise_async};
