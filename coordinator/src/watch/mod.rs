//! What can be watched of a running coordinator, by machines: numbers for Prometheus.
//!
//! - [`tally`]: what is counted as it happens, since the coordinator started.
//! - [`metrics`]: those counts and the state, as text; pure.
//! - [`scrape`]: answers whoever asks for that text.
//!
//! Deliberately absent: what people watch. `status --watch` asks the `Sweeps` service.

pub mod metrics;
pub mod scrape;
pub mod tally;
