//! Routes for the calls of a task that name no queue.

use longshore_celery::glob;

/// Route for the calls of a task that name no queue: a queue or an exchange, a priority, or both.
/// ```
/// use longshore_worker::{App, Route};
///
/// let app = App::new()
///     .route("mail.*", "mail")
///     .route("reports.daily", Route::queue("slow").priority(6))
///     .route("media.*", Route::exchange("media", "topic", "media.video"));
/// assert_eq!(app.settings().route_of("reports.daily").queue.as_deref(), Some("slow"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// The queue; the default one where absent.
    pub queue: Option<String>,
    /// The exchange that finds the queues, in place of one queue. Only RabbitMQ has exchanges, and
    /// Redis the bindings of Celery's workers.
    pub exchange: Option<String>,
    /// Its type: `direct` where absent, which needs a routing key.
    pub exchange_type: Option<String>,
    /// The routing key.
    pub routing_key: Option<String>,
    /// The priority, 0 to 9, on RabbitMQ to 255; 0 where absent.
    pub priority: Option<u8>,
}

impl Route {
    /// Makes a route to this queue.
    pub fn queue(queue: impl Into<String>) -> Self {
        Self { queue: Some(queue.into()), ..Self::default() }
    }

    /// Makes a route through this exchange of this type (`direct`, `topic`, `fanout`), with this
    /// routing key.
    pub fn exchange(exchange: impl Into<String>, kind: impl Into<String>, routing_key: impl Into<String>) -> Self {
        let (exchange, exchange_type, routing_key) = (Some(exchange.into()), Some(kind.into()), Some(routing_key.into()));
        Self { exchange, exchange_type, routing_key, ..Self::default() }
    }

    /// Sets the priority of calls that name none.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }
}

impl From<&str> for Route {
    fn from(queue: &str) -> Self {
        Self::queue(queue)
    }
}

impl From<String> for Route {
    fn from(queue: String) -> Self {
        Self::queue(queue)
    }
}

/// Returns the route of this task, as Celery looks for it: the one of its very name, else that of a
/// pattern; of several the first. Patterns are those with a `*`; in these `?` and `[a-z]` mean
/// something, too.
pub(crate) fn of<'a>(routes: &'a [(String, Route)], task: &str) -> Option<&'a Route> {
    let named = routes.iter().find(|(name, _)| name == task && !is_pattern(name));
    named.or_else(|| routes.iter().find(|(pattern, _)| names(pattern, task))).map(|(_, route)| route)
}

/// Returns whether a name or a pattern stands for this task.
pub(crate) fn names(pattern: &str, task: &str) -> bool {
    match pattern.strip_suffix('*') {
        // Most are, and of these nothing has to be copied.
        Some(beginning) if !beginning.contains(['*', '?', '[']) => task.starts_with(beginning),
        _ if is_pattern(pattern) => glob(pattern, task),
        _ => pattern == task,
    }
}

fn is_pattern(name: &str) -> bool {
    name.contains('*')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row as Celery 5.7 routes it.
    #[test]
    fn a_name_goes_before_patterns_and_the_first_pattern_counts() {
        let routes: Vec<(String, Route)> =
            [("*.log", "logs"), ("mail.*", "mail"), ("mail.s?nd", "none"), ("mail.send", "fast"), ("x.[ab]*", "x"), ("x.?", "none")]
                .map(|(pattern, queue)| (pattern.to_owned(), queue.into()))
                .to_vec();
        for (task, queue) in [
            ("mail.send", Some("fast")),
            ("mail.sent", Some("mail")),
            ("mail.log", Some("logs")),
            ("mail", None),
            ("x.a1", Some("x")),
            ("x.c", None),
            ("mail.s?nd", Some("none")),
        ] {
            assert_eq!(of(&routes, task).and_then(|route| route.queue.as_deref()), queue, "{task}");
        }
    }
}
