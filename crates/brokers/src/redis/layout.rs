//! Names of keys and channels: kombu's, Celery's, and ours (`longshore:`).

use longshore_celery::Value;

use crate::results::Key;

use super::url::Config;

/// Names of keys and channels at one URL.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    prefix: String,
    sep: String,
    steps: Vec<u8>,
    /// Before the keys of results: kombu's prefix, with a `_` where it does not end in punctuation.
    results: String,
    /// Before the channels of exchanges: `/<db>.`.
    channels: String,
    /// Most messages of ended tasks that are kept.
    most_kept: u64,
}

/// Separator of the parts of a binding; kombu's, whatever the separator of priorities is.
const PARTS: &str = "\x06\x16";

impl Layout {
    pub(super) fn new(config: &Config) -> Self {
        let prefix = config.prefix.clone();
        let results = match prefix.chars().last() {
            None | Some(':' | '_' | '-' | '.') => prefix.clone(),
            Some(_) => format!("{prefix}_"),
        };
        let channels = format!("{prefix}/{}.", config.db);
        let most_kept = config.kept_messages;
        Self { prefix, sep: config.sep.clone(), steps: config.steps.clone(), results, channels, most_kept }
    }

    /// Returns what stands before all names.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the lists of a queue, the one that is served first at the head.
    pub(super) fn lists<'a>(&'a self, queue: &'a str) -> impl Iterator<Item = String> + 'a {
        self.steps.iter().map(move |step| self.list_of_step(queue, *step))
    }

    /// Returns how many lists a queue has.
    pub(super) fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Returns the list of a queue for one of its priority steps, by place.
    pub(super) fn list_at(&self, queue: &str, place: usize) -> String {
        self.list_of_step(queue, self.steps[place])
    }

    /// Returns the list of a queue that holds this priority.
    pub(super) fn list(&self, queue: &str, priority: u8) -> String {
        let step = self.steps.iter().rev().find(|step| **step <= priority.min(9)).or(self.steps.first()).copied().unwrap_or(0);
        self.list_of_step(queue, step)
    }

    fn list_of_step(&self, queue: &str, step: u8) -> String {
        let Self { prefix, sep, .. } = self;
        if step == 0 { format!("{prefix}{queue}") } else { format!("{prefix}{queue}{sep}{step}") }
    }

    pub(super) fn unacked(&self) -> String {
        format!("{}unacked", self.prefix)
    }

    pub(super) fn unacked_index(&self) -> String {
        format!("{}unacked_index", self.prefix)
    }

    pub(super) fn binding(&self, exchange: &str) -> String {
        format!("{}_kombu.binding.{exchange}", self.prefix)
    }

    pub(super) fn permanent(&self, exchange: &str) -> String {
        format!("{}_kombu.binding_permanent.{exchange}", self.prefix)
    }

    /// Ours.
    pub(super) fn own(&self, name: &str) -> String {
        format!("{}longshore:{name}", self.prefix)
    }

    pub(super) fn dead(&self, queue: &str) -> String {
        self.own(&format!("dead:{queue}"))
    }

    /// Returns the key of the messages that nobody could have run.
    pub(super) fn junk(&self, queue: &str) -> String {
        self.own(&format!("junk:{queue}"))
    }

    /// Returns the key under which a message lies that was put aside for being too large.
    pub(super) fn aside(&self, tag: &str) -> String {
        self.own(&format!("aside:{tag}"))
    }

    /// Returns the key of the counts, by queue, of dead letters that were dropped.
    pub(super) fn dropped(&self) -> String {
        self.own("dropped")
    }

    /// Returns the key of the counts of dropped junk, by queue.
    pub(super) fn dropped_junk(&self) -> String {
        self.own("dropped-junk")
    }

    /// Returns how many messages of ended tasks are kept.
    pub(super) fn most_kept(&self) -> u64 {
        self.most_kept
    }

    /// Returns the queue whose dead letters or junk this key holds.
    pub(super) fn queue_of_dead<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(self.own("dead:").as_str()).or_else(|| key.strip_prefix(self.own("junk:").as_str()))
    }

    /// Returns the exchange whose bindings this key holds.
    pub(super) fn exchange_of_binding<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(self.binding("").as_str())
    }

    pub(super) fn document(&self, key: &Key) -> String {
        match key {
            Key::Task(id) => [self.results.as_str(), "celery-task-meta-", id].concat(),
            Key::Group(id) => self.group(id),
            Key::Message(id) => self.own(&format!("message:{id}")),
        }
    }

    /// Returns the id of a task's document or channel.
    pub(super) fn task_of_document<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(self.results.as_str())?.strip_prefix("celery-task-meta-")
    }

    pub(super) fn group(&self, id: &str) -> String {
        format!("{}celery-taskset-meta-{id}", self.results)
    }

    /// Returns the channel of an exchange that tells all who listen.
    pub(super) fn channel(&self, exchange: &str, routing_key: &str) -> String {
        let slash = if routing_key.is_empty() { "" } else { "/" };
        format!("{}{exchange}{slash}{routing_key}", self.channels)
    }
}

/// Returns a member of a set of bindings.
pub(super) fn binding(routing_key: &str, queue: &str) -> String {
    format!("{routing_key}{PARTS}{PARTS}{queue}")
}

/// Returns routing key, pattern and queue of a member of a set of bindings.
pub(super) fn bound(member: &str) -> Option<(&str, &str, &str)> {
    let mut parts = member.splitn(3, PARTS);
    Some((parts.next()?, parts.next()?, parts.next()?))
}

/// Returns true if a routing key matches a pattern of a topic exchange (`*` one word, `#` any
/// number), or is the key of a direct one.
pub(super) fn matches(routing_key: &str, bound_key: &str, pattern: &str) -> bool {
    fn words(key: &[&str], pattern: &[&str]) -> bool {
        match (key, pattern) {
            (_, ["#"]) => true,
            (key, ["#", rest @ ..]) => (0..=key.len()).any(|from| words(&key[from..], rest)),
            ([_, key @ ..], ["*", rest @ ..]) => words(key, rest),
            ([word, key @ ..], [other, rest @ ..]) => word == other && words(key, rest),
            ([], []) => true,
            _ => false,
        }
    }
    // kombu writes the pattern of a topic as a regular expression; its bound key has the words.
    if pattern.is_empty() {
        return routing_key == bound_key;
    }
    words(&routing_key.split('.').collect::<Vec<_>>(), &bound_key.split('.').collect::<Vec<_>>())
}

/// Returns the text behind the message in an entry of `unacked`, for a message of this queue.
pub(super) fn entry_end(queue: &str) -> Vec<u8> {
    let mut end = b",\"\",\"".to_vec();
    for character in queue.chars() {
        match character {
            '"' | '\\' => end.extend([b'\\', character as u8]),
            control if (control as u32) < 0x20 => end.extend(format!("\\u{:04x}", control as u32).bytes()),
            other => end.extend(other.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    end.extend(b"\"]");
    end
}

/// Returns message, exchange and routing key of an entry of `unacked`. `None` where it is none.
pub(super) fn entry(bytes: &[u8]) -> Option<(&[u8], String, String)> {
    let trim = |bytes: &mut &[u8]| *bytes = bytes.trim_ascii_end();
    let mut rest = bytes.trim_ascii().strip_prefix(b"[")?.strip_suffix(b"]")?;
    let text = |rest: &mut &[u8]| -> Option<String> {
        trim(rest);
        let inner = rest.strip_suffix(b"\"")?;
        // Its opening quote: the last one that is not escaped.
        let mut open = inner.len();
        loop {
            open = inner[..open].iter().rposition(|byte| *byte == b'"')?;
            let escapes = inner[..open].iter().rev().take_while(|byte| **byte == b'\\').count();
            if escapes % 2 == 0 {
                break;
            }
        }
        let value = Value::parse(&rest[open..], 1).ok()?.as_str()?.to_owned();
        *rest = &rest[..open];
        trim(rest);
        *rest = rest.strip_suffix(b",")?;
        Some(value)
    };
    let routing_key = text(&mut rest)?;
    let exchange = text(&mut rest)?;
    // The message as it came, to the last byte: one that cannot be read is shown as it was sent.
    Some((rest, exchange, routing_key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_channels_are_kombus() {
        let layout = Layout::new(&Config::parse("redis://h/2").unwrap());
        assert_eq!(layout.lists("celery").collect::<Vec<_>>(), ["celery", "celery\x06\x163", "celery\x06\x166", "celery\x06\x169"]);
        let steps: Vec<_> = (0..=10).map(|priority| layout.list("q", priority)).collect();
        assert_eq!(steps[0], "q");
        assert_eq!(steps[2], "q");
        assert_eq!(steps[5], "q\x06\x163");
        assert_eq!((steps[9].as_str(), steps[10].as_str()), ("q\x06\x169", "q\x06\x169"));
        assert_eq!(layout.channel("celery.pidbox", ""), "/2.celery.pidbox");
        assert_eq!(layout.channel("celeryev", "worker.online"), "/2.celeryev/worker.online");
        let layout = Layout::new(&Config::parse("redis://h/2?global_keyprefix=app1").unwrap());
        assert_eq!(layout.unacked(), "app1unacked");
        assert_eq!(layout.binding("celery"), "app1_kombu.binding.celery");
        assert_eq!(layout.channel("celeryev", "worker.online"), "app1/2.celeryev/worker.online");
        assert_eq!(layout.document(&Key::Task("x".into())), "app1_celery-task-meta-x");
        assert_eq!(layout.task_of_document("app1_celery-task-meta-x"), Some("x"));
        let layout = Layout::new(&Config::parse("redis://h/2?global_keyprefix=app1:").unwrap());
        assert_eq!(layout.document(&Key::Group("x".into())), "app1:celery-taskset-meta-x");
    }

    #[test]
    fn entries_of_unacked_are_read_from_their_end() {
        for (queue, raw) in [("celery", r#"{"a": "]\"[,"}"#), ("q\"u\\e\n", "{}"), ("größe", "not json, at all"), ("celery", "cut here: ")]
        {
            let mut whole = b"[".to_vec();
            whole.extend(raw.as_bytes());
            whole.extend(entry_end(queue));
            assert_eq!(entry(&whole), Some((raw.as_bytes(), String::new(), queue.to_owned())));
        }
        assert_eq!(entry(br#"[{"x": 1}, "ex", "rk"]"#), Some((&br#"{"x": 1}"#[..], "ex".to_owned(), "rk".to_owned())));
        for bad in [&b""[..], b"[", b"[]", b"[{}]", b"[{}, 1, 2]", b"\"]", b"[\"]", b"[{},\"a\\\"]"] {
            assert_eq!(entry(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn routing_keys_match_as_topics_do() {
        for (key, bound, pattern, is) in [
            ("celery", "celery", "", true),
            ("celery", "other", "", false),
            ("a.b", "a.*", "x", true),
            ("a.b.c", "a.*", "x", false),
            ("a.b.c", "a.#", "x", true),
            ("a.b.c", "#.c", "x", true),
            ("a", "#", "x", true),
        ] {
            assert_eq!(matches(key, bound, pattern), is, "{key} {bound}");
        }
        assert_eq!(bound("rk\x06\x16\x06\x16q"), Some(("rk", "", "q")));
    }
}
