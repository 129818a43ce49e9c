//! Limits that processes share on a broker, and the rates of tasks.
//!
//! `limits/row.rs`: one limit or rate; `limits/told.rs`: the rates that workers say they keep

mod row;
mod told;

use longshore_brokers::{BUCKET, LimitState};
use longshore_celery::control::Request;
use longshore_core::Rate;
use longshore_worker::{
    Client,
    remote::{PATIENCE, ask},
};
use serde::{Serialize, Serializer, ser::SerializeStruct};

pub use self::row::{LimitInfo, LimitSource, rate_text};
use self::{
    row::fields,
    told::{ToldRate, rates},
};
use crate::error::OpsError;

/// Asks for limits and rates: those of the broker and the workers, put together with those that
/// whoever asks knows (from a configuration, from tasks of its own).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LimitsRequest {
    /// The limits that are known here.
    pub limits: Vec<KnownLimit>,
    /// The rates of tasks that are known here.
    pub rates: Vec<KnownRate>,
}

/// A limit that whoever asks knows.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct KnownLimit {
    /// Its name.
    pub name: String,
    /// Its rate.
    pub rate: Option<Rate>,
    /// The rate in the words of whoever wrote it.
    pub words: Option<String>,
    /// Most tasks that may run under it at once in each process.
    pub concurrency: Option<u64>,
    /// The template whose values have a bucket each.
    pub by: Option<String>,
}

impl KnownLimit {
    /// Names a limit.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// A task's rate that whoever asks knows.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct KnownRate {
    /// The task.
    pub task: String,
    /// Its rate, if it has one.
    pub rate: Option<Rate>,
    /// The limit that it has its rate from.
    pub limit: Option<String>,
    /// The rate in the words of whoever wrote it.
    pub words: Option<String>,
    /// Source from which it is known.
    pub from: LimitSource,
}

impl KnownRate {
    /// Names a task.
    pub fn new(task: impl Into<String>) -> Self {
        Self { task: task.into(), ..Self::default() }
    }
}

/// Looks which limits there are, which of them are in use, and which rates workers keep. It takes a
/// second, which is how long replies of workers are waited for.
///
/// # Errors
/// The broker cannot be reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn list(client: &Client, request: &LimitsRequest) -> Result<Vec<LimitInfo>, OpsError> {
    // What remote control has set is known to the workers alone.
    let replies = ask(client.connected(), Request::new("registered"), PATIENCE).await?;
    let known = client.connected().shared()?.limits().await?;
    Ok(together(request, &known, &rates(&replies)))
}

/// Looks which limits are shared on the broker, and asks no worker: it waits for nobody's reply.
///
/// # Errors
/// The broker cannot be reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn shared(client: &Client) -> Result<Vec<LimitInfo>, OpsError> {
    let known = client.connected().shared()?.limits().await?;
    Ok(known.iter().map(LimitInfo::of_state).collect())
}

/// Puts together the limits that are known here, those that only others know, and the tasks that
/// have a rate: by their own policy, or because a worker was told so. Pure.
fn together(request: &LimitsRequest, known: &[LimitState], told: &[ToldRate]) -> Vec<LimitInfo> {
    let of = |limit: &KnownLimit| LimitInfo::of_limit(limit, known.iter().find(|state| state.name == limit.name));
    let mut limits: Vec<LimitInfo> = request.limits.iter().map(of).collect();
    // The buckets of limits by value, and limits that only others know.
    let is_new = |state: &&LimitState| !request.limits.iter().any(|limit| limit.name == state.name);
    limits.extend(known.iter().filter(is_new).map(LimitInfo::of_state));
    let mut tasks: Vec<LimitInfo> = request.rates.iter().map(LimitInfo::of_task).collect();
    for one in told {
        match tasks.iter_mut().find(|info| info.task.as_deref() == Some(one.task.as_str())) {
            Some(info) => info.hear(one),
            None => {
                let mut info = LimitInfo::of_task(&KnownRate::new(one.task.as_str()));
                info.hear(one);
                tasks.push(info);
            }
        }
    }
    limits.extend(tasks.into_iter().filter(LimitInfo::has_rate));
    limits
}

/// Looks whether somebody uses a limit of this name, or has set its rate.
///
/// # Errors
/// The broker cannot be reached, or refuses.
///
/// # Cancel safety
/// Cancel safe: nothing is changed by asking.
pub async fn is_known(client: &Client, limit: &str) -> Result<bool, OpsError> {
    let known = client.connected().shared()?.limits().await?;
    Ok(known.iter().any(|state| state.name.split(BUCKET).next() == Some(limit)))
}

/// Sets the rate of a limit for all who share it on the broker. The rate of a task at workers is
/// set by [`WorkerAction::SetRate`](crate::workers::WorkerAction::SetRate).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SetLimit {
    /// The limit.
    pub limit: String,
    /// Its rate; with `None` that of whoever asks holds again.
    pub rate: Option<Rate>,
}

impl SetLimit {
    /// Sets this rate.
    pub fn new(limit: impl Into<String>, rate: Option<Rate>) -> Self {
        Self { limit: limit.into(), rate }
    }
}

/// A limit whose rate was set.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LimitSet {
    /// The limit.
    pub limit: String,
    /// The rate that holds for all; `None`: that of whoever asks.
    pub set: Option<Rate>,
}

impl Serialize for LimitSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut done = serializer.serialize_struct("LimitSet", 2)?;
        done.serialize_field("limit", &self.limit)?;
        done.serialize_field("set", &fields(self.set))?;
        done.end()
    }
}

/// Sets the rate of a limit, from everybody's next call on, behind what is reserved.
///
/// # Errors
/// The broker cannot be reached, or refuses. Doing it again does no harm.
///
/// # Cancel safety
/// What is cancelled may have been done.
pub async fn set(client: &Client, action: &SetLimit) -> Result<LimitSet, OpsError> {
    client.connected().shared()?.set_limit(&action.limit, action.rate).await?;
    Ok(LimitSet { limit: action.limit.clone(), set: action.rate })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_several_know_of_a_limit_is_one_line() {
        let request = LimitsRequest {
            limits: vec![KnownLimit { rate: Some(Rate::per_second(5.0)), ..KnownLimit::new("api") }, KnownLimit::new("unused")],
            rates: vec![KnownRate { rate: Some(Rate::per_second(1.0)), ..KnownRate::new("paced") }, KnownRate::new("free")],
        };
        let state = |name: &str| LimitState { name: name.into(), set: None, ahead: Duration::ZERO };
        let told = |task: &str, rate| ToldRate { task: task.into(), node: "w".into(), rate };
        let known = [state("api"), state("others")];
        let told = [told("free", None), told("paced", Some(Rate::per_second(1.0))), told("elsewhere", Some(Rate::per_second(2.0)))];
        let limits = together(&request, &known, &told);
        let names: Vec<_> = limits.iter().map(|info| info.task.as_deref().or(info.limit.as_deref()).unwrap_or_default()).collect();
        assert_eq!(names, ["api", "unused", "others", "paced", "elsewhere"]);
    }
}
