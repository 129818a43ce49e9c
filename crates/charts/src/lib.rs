//! Charts as inline SVG, for a file or a page: values over time, how times are spread, counts by
//! name.
//!
//! What comes out has no script, no `style` attribute, and fetches nothing. Colours are classes of
//! [`STYLE`], which stands once in the page. Texts are escaped here, whatever they hold.
//!
//! ```
//! use longshore_charts::{OverTime, Series, Tone};
//!
//! let series = vec![Series { name: "ok".to_owned(), tone: Tone::Good, values: vec![3.0, 5.0] }];
//! let chart = OverTime { title: "Throughput".to_owned(), axis: "tasks per second".to_owned(), series, bucket: 1.0, span: 2.0, ..OverTime::default() };
//! assert!(chart.svg().starts_with("<svg "));
//! ```
//!
//! Layout: `over_time.rs`, `spread.rs`, `heat_map.rs`, `ranking.rs`, `spark.rs`: the charts;
//! `frame.rs`: what they share; `scale.rs`: ticks, and numbers as people read them; `escape.rs`.

mod escape;
mod frame;
mod heat_map;
mod over_time;
mod ranking;
mod scale;
mod spark;
mod spread;

pub use escape::escape;
pub use frame::{STYLE, Tone};
pub use heat_map::{HeatMap, HeatMapRow};
pub use over_time::{Limit, OverTime, Series};
pub use ranking::{Ranking, Row};
pub use scale::{show_number, show_time};
pub use spark::Spark;
pub use spread::{Bin, Mark, Spread};
