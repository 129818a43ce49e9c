//! Durations, sizes, rates and percentages as people write them.
