//! Does what a command asks for, or looks it up.

use std::time::Duration;

use longshore_celery::control::Command;
use longshore_core::Rate;

use super::{
    RemoteControl,
    answer::{
        ControlAnswer::{self, Done, Facts, Nothing},
        ControlDone, ControlFacts,
    },
};

impl RemoteControl {
    /// Does what a command asks for, or looks it up.
    pub(super) async fn obey(&mut self, command: Command) -> ControlAnswer {
        let shared = self.shared.clone();
        match command {
            // Questions.
            Command::Ping => Done(ControlDone::Pong),
            Command::Active { safe } => Facts(ControlFacts::Claimed { works: self.claimed(true), safe }),
            Command::Reserved => Facts(ControlFacts::Claimed { works: self.claimed(false), safe: false }),
            Command::Scheduled => Facts(ControlFacts::Held(self.held_messages().await)),
            Command::Revoked => Facts(ControlFacts::Revoked(shared.revoked().ids())),
            Command::Registered { items, builtins } => Facts(ControlFacts::Registered { tasks: self.served(builtins), items }),
            Command::Stats => Facts(ControlFacts::Stats(self.stats())),
            Command::ActiveQueues => Facts(ControlFacts::Queues(shared.consumer.serving())),
            Command::Conf { with_defaults } => Facts(ControlFacts::Settings { slots: self.slots.sizes().iter().sum(), with_defaults }),
            Command::View => Facts(ControlFacts::View(self.face.look().await.map(Box::new))),
            Command::Report => Facts(ControlFacts::Report),
            Command::Clock => Facts(ControlFacts::Clock),
            Command::QueryTask { ids } => Facts(ControlFacts::Known(self.query(&ids).await)),
            Command::Hello { from_node, revoked } => {
                if from_node == *shared.node {
                    return Nothing;
                }
                shared.call_off(&revoked);
                Facts(ControlFacts::Hello(shared.revoked().ids()))
            }
            // Actions.
            Command::RateLimit { task_name, rate_limit } => Done(self.set_rate(&task_name, rate_limit.per_second)),
            Command::TimeLimit { task_name, soft, hard } => Done(self.set_limits(task_name.as_deref(), soft, hard)),
            Command::PoolGrow { n } => Done(self.grow(n, true)),
            Command::PoolShrink { n } => Done(self.grow(n.saturating_neg(), false)),
            Command::PoolRestart => Done(ControlDone::NoRestart),
            Command::Autoscale { max, min } => Done(self.rescale(max, min)),
            Command::AddConsumer { queue, exchange, exchange_type, routing_key } => {
                let binding = [exchange.as_deref(), exchange_type.as_deref(), routing_key.as_deref()];
                Done(self.serve_queue(queue, binding))
            }
            // Whatever was claimed of it still runs.
            Command::CancelConsumer { queue } => {
                shared.consumer.serve(&queue, false);
                Done(ControlDone::Left { queue })
            }
            Command::EnableEvents => Done(ControlDone::Events { on: true, changed: self.events.set(true) }),
            Command::DisableEvents => Done(ControlDone::Events { on: false, changed: self.events.set(false) }),
            Command::Heartbeat => {
                self.events.beat();
                Nothing
            }
            Command::Revoke { ids, terminate, signal } => Done(self.revoke(ids, terminate, signal.as_deref()).await),
            Command::RevokeByStampedHeaders { headers, terminate, signal } => {
                Done(self.revoke_stamps(headers, terminate, signal.as_deref()).await)
            }
            Command::Shutdown => {
                self.stopper.warm();
                Nothing
            }
            // Elections are gossip's; no node waits for us. Nor is memory sampled here.
            _ => Nothing,
        }
    }

    /// Sets the rate of a task; nothing above 0 is no limit.
    fn set_rate(&self, name: &str, per_second: f64) -> ControlDone {
        let Some(task) = self.shared.app.task_named(name) else { return ControlDone::UnknownTask };
        let rate = (per_second > 0.0).then(|| Rate::per_second(per_second));
        self.shared.set_override(&task.name, |set| set.rate = Some(rate));
        self.intake.rate_changed(&task.name);
        ControlDone::RateSet { limited: rate.is_some() }
    }

    /// Sets the limits of time of a task, in seconds.
    fn set_limits(&self, name: Option<&str>, soft: Option<f64>, hard: Option<f64>) -> ControlDone {
        let Some(task) = name.and_then(|name| self.shared.app.task_named(name)) else { return ControlDone::UnknownTask };
        let limit = |seconds: Option<f64>| seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        self.shared.set_override(&task.name, |set| (set.soft, set.hard) = (limit(soft), limit(hard)));
        ControlDone::TimeLimitSet
    }

    fn grow(&self, n: i64, more: bool) -> ControlDone {
        self.slots.grow(n);
        ControlDone::Grown { more }
    }

    /// Sets new bounds of autoscale; those that are absent stay.
    fn rescale(&self, max: Option<i64>, min: Option<i64>) -> ControlDone {
        let whole = |number: i64| usize::try_from(number).unwrap_or(0);
        match self.slots.rescale(max.map(whole), min.map(whole)) {
            Some((max, min)) => ControlDone::Rescaled { max, min },
            None => ControlDone::NoAutoscale,
        }
    }

    /// Takes a queue into service.
    fn serve_queue(&self, queue: String, binding: [Option<&str>; 3]) -> ControlDone {
        if !is_own_binding(&queue, binding) {
            return ControlDone::OtherBinding { queue };
        }
        if self.shared.consumer.serving().iter().any(|serving| **serving == *queue) {
            return ControlDone::Serving { queue, before: true };
        }
        if let Some(why) = longshore_brokers::refused_queue(&queue) {
            return ControlDone::BadQueue { why };
        }
        self.shared.consumer.serve(&queue, true);
        ControlDone::Serving { queue, before: false }
    }
}

/// Returns whether a binding (exchange, its type, routing key) is the queue's own. A worker of ours
/// binds each queue to the exchange of its name, and whoever is told that all is well would wait
/// for what is sent elsewhere. An empty text is as good as none. Pure.
fn is_own_binding(queue: &str, [exchange, kind, key]: [Option<&str>; 3]) -> bool {
    let own = |said: Option<&str>, own: &str| said.is_none_or(|said| said.is_empty() || said == own);
    own(exchange, queue) && own(kind, "direct") && own(key, queue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_binding_of_the_queues_own_is_served() {
        for (binding, own) in [
            ([None, None, None], true),
            ([Some("q"), Some("direct"), Some("q")], true),
            ([Some(""), Some(""), Some("")], true),
            ([Some("other"), None, None], false),
            ([None, Some("topic"), None], false),
            ([None, None, Some("q.#")], false),
        ] {
            assert_eq!(is_own_binding("q", binding), own, "{binding:?}");
        }
    }
}
