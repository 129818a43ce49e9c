//! `[queues.NAME]`: how a queue is declared.

use longshore_worker::{DeadLetterPlace, QueueSpec};

use super::{Config, ConfigError, Section, SectionId, Value};

impl Config {
    /// Returns how queues are declared, by their names.
    ///
    /// # Errors
    /// A `${VAR}` that is not set; what no server would take.
    pub fn queues(&self) -> Result<Vec<QueueSpec>, ConfigError> {
        let named = self.sections.keys().filter_map(|id| if let SectionId::Queue(name) = id { Some((id, name)) } else { None });
        named.map(|(id, name)| spec(name, &id.place(), &self.section(id)?)).collect()
    }
}

/// Reads how one queue is declared; `place` is its section, for messages.
fn spec(name: &str, place: &str, section: &Section) -> Result<QueueSpec, ConfigError> {
    let text = |key: &str| section.get(key).and_then(|setting| setting.value.clone().into_text());
    let is = |key: &str, default: bool| section.get(key).map_or(default, |setting| setting.value == Value::Bool(true));
    let wrong = |key: &str, what: &str| match section.get(key).or_else(|| section.values().next()) {
        Some(setting) => setting.wrong(key, place, what),
        None => ConfigError { path: None, line: None, message: what.to_owned() },
    };
    let mut spec = QueueSpec::new(name);
    spec.kind = text("type");
    if let Some(most) = text("max-priority") {
        spec.max_priority = Some(most.parse().map_err(|_| wrong("max-priority", "the largest priority is 1 to 255"))?);
    }
    for pair in section.get("arguments").map(|setting| setting.values().to_vec()).unwrap_or_default() {
        let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
        spec.arguments.push((name.to_owned(), argument(value)));
    }
    let (kind, key) = (text("exchange-type"), text("routing-key"));
    match text("exchange") {
        // A key means nothing to a fanout.
        Some(exchange) => {
            let kind = kind.unwrap_or_else(|| "direct".to_owned());
            let key = key.unwrap_or_else(|| if kind == "fanout" { String::new() } else { name.to_owned() });
            spec = spec.bound(exchange, kind, key);
        }
        None if kind.is_some() || key.is_some() => {
            return Err(wrong("exchange", "a routing key and a type belong to an `exchange`, which is not named"));
        }
        None => {}
    }
    spec = spec.lives(is("durable", true), is("auto-delete", false));
    if is("exclusive", false) {
        spec = spec.exclusive();
    }
    spec = match text("dead-letters").as_deref() {
        None | Some("keep") => spec,
        Some("exchange") => spec.dead_letters(DeadLetterPlace::Exchange),
        Some(_) => return Err(wrong("dead-letters", "known are `keep` and `exchange`")),
    };
    spec.check().map_err(|why| wrong("type", &why))?;
    Ok(spec)
}

/// Reads an argument of a queue: a whole number, true or false, else a text.
fn argument(text: &str) -> longshore_celery::Value {
    match (text, text.parse::<i64>()) {
        ("true", _) => true.into(),
        ("false", _) => false.into(),
        (_, Ok(number)) => number.into(),
        (text, Err(_)) => text.into(),
    }
}
