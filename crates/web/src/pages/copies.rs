//! A task as a line to copy: for a shell (longshore's own call, curl) and for Python.
//!
//! Its parts come from whoever sent the task, and are going to be pasted into a shell:
//! quotes keep it together, and characters that a terminal would act upon are written as escapes,
//! or there is no such line.

use longshore_celery::{Limits, Message, Value};
use longshore_ops::tasks::TaskDetail;
use serde::Serialize;

use crate::{frame::in_query, options::Access};

/// Longest arguments that are offered, in bytes: beyond, a shell may refuse the line.
const LONGEST: usize = 64 << 10;

/// A task that may be sent once more, under an id of its own.
pub(super) struct Copied<'a> {
    pub(super) task: &'a str,
    pub(super) queue: Option<&'a str>,
    pub(super) args: Value,
    pub(super) kwargs: Value,
}

/// A way to send it, with what is to be copied.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Copy {
    pub(super) label: &'static str,
    pub(super) text: String,
}

impl<'a> Copied<'a> {
    /// Takes what is known of a task; `None` where its arguments are not.
    pub(super) fn of(detail: &'a TaskDetail) -> Option<Self> {
        let of_message = || {
            let message = Message::decode(detail.message.as_ref()?.as_bytes(), &Limits::default()).ok()?;
            Some((message.args.to_vec().into(), message.kwargs.clone().into()))
        };
        let of_result = || {
            let extended = detail.info.stored.as_ref()?.extended.as_ref()?;
            extended.args.as_list()?;
            extended.kwargs.as_map()?;
            Some((extended.args.clone(), extended.kwargs.clone()))
        };
        let (args, kwargs) = of_message().or_else(of_result)?;
        let task = detail.info.task.as_deref().filter(|task| !task.is_empty())?;
        Some(Self { task, queue: detail.info.queue.as_deref(), args, kwargs })
    }

    /// Returns all ways that there are; `door` is the address of this dashboard, where tasks may be
    /// sent to it.
    pub(super) fn ways(&self, door: Option<(&str, &Access)>) -> Vec<Copy> {
        if json(&self.args).len() + json(&self.kwargs).len() > LONGEST {
            return Vec::new();
        }
        let of = |label, text: Option<String>| text.map(|text| Copy { label, text });
        let curl = door.and_then(|(address, access)| self.curl(address, access));
        [of("longshore", self.longshore()), of("curl", curl), of("Python", self.python())].into_iter().flatten().collect()
    }

    fn longshore(&self) -> Option<String> {
        let mut line = format!("longshore call -a {} -k {}", shell(&json(&self.args))?, shell(&json(&self.kwargs))?);
        if let Some(queue) = self.queue {
            line += &format!(" --queue={}", shell(queue)?);
        }
        // A name that looks like a flag is none.
        let ends = if self.task.starts_with('-') { " --" } else { "" };
        Some(format!("{line}{ends} {}", shell(self.task)?))
    }

    fn curl(&self, address: &str, access: &Access) -> Option<String> {
        let queue = self.queue.map(|queue| format!(", \"queue\": {}", text(queue))).unwrap_or_default();
        let body = format!("{{\"args\": {}, \"kwargs\": {}{queue}}}", json(&self.args), json(&self.kwargs));
        let proof = match access {
            Access::Token(_) => " -H \"Authorization: Bearer $LONGSHORE_WEB_TOKEN\"".to_owned(),
            Access::Basic { user, .. } => format!(" -u {}", shell(user)?),
            Access::Open | Access::Proxy { .. } => String::new(),
        };
        let url = format!("{address}/api/v1/tasks/{}", in_query(self.task));
        Some(format!("curl{proof} -H 'Content-Type: application/json' --data-binary {} {}", shell(&body)?, shell(&url)?))
    }

    fn python(&self) -> Option<String> {
        // Python reads the escapes of a surrogate in another way than JSON.
        if has_surrogates(&self.args) || has_surrogates(&self.kwargs) {
            return None;
        }
        let queue = self.queue.map(|queue| format!(", queue={}", text(queue))).unwrap_or_default();
        Some(format!("app.send_task({}, args={}, kwargs={}{queue})", text(self.task), python(&self.args), python(&self.kwargs)))
    }
}

/// Quotes a text for a POSIX shell; `None` where it holds what a terminal would act upon.
fn shell(text: &str) -> Option<String> {
    let is_harmless = !text.chars().any(|character| character != '\n' && acts(character));
    is_harmless.then(|| format!("'{}'", text.replace('\'', r"'\''")))
}

/// Returns whether a terminal or an editor does not show a character as itself.
fn acts(character: char) -> bool {
    let turns = matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    turns || character.is_control()
}

/// Writes a character as it is, or as an escape: all that acts is in the first plane.
fn shown(character: char) -> String {
    if acts(character) { format!("\\u{:04x}", u32::from(character)) } else { character.to_string() }
}

/// Writes a text as JSON has it, which is as Python has it.
fn text(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            other => quoted.push_str(&shown(other)),
        }
    }
    quoted + "\""
}

fn has_surrogates(value: &Value) -> bool {
    match value {
        Value::Escaped(_) => true,
        Value::List(items) => items.iter().any(has_surrogates),
        Value::Map(members) => members.iter().any(|(_, member)| has_surrogates(member)),
        _ => false,
    }
}

/// Writes a value as JSON.
fn json(value: &Value) -> String {
    written(value, ["null", "true", "false"], |number| String::from_utf8_lossy(&Value::Float(number).to_json()).into_owned())
}

/// Writes a value as Python.
fn python(value: &Value) -> String {
    written(value, ["None", "True", "False"], |number| {
        let json = String::from_utf8_lossy(&Value::Float(number).to_json()).into_owned();
        if number.is_finite() { json } else { format!("float(\"{json}\")") }
    })
}

fn written(value: &Value, words: [&str; 3], float: fn(f64) -> String) -> String {
    let all = |items: Vec<String>| items.join(", ");
    match value {
        Value::Null => words[0].to_owned(),
        Value::Bool(is_true) => words[if *is_true { 1 } else { 2 }].to_owned(),
        Value::Int(number) => number.to_string(),
        Value::Big(digits) => digits.to_string(),
        Value::Float(number) => float(*number),
        Value::Text(string) => text(string),
        // Its escapes are JSON's; what acts is escaped beside them.
        Value::Escaped(escaped) => format!("\"{}\"", escaped.chars().map(shown).collect::<String>()),
        Value::List(items) => format!("[{}]", all(items.iter().map(|item| written(item, words, float)).collect())),
        Value::Map(members) => {
            format!(
                "{{{}}}",
                all(members.iter().map(|(name, member)| format!("{}: {}", text(name), written(member, words, float))).collect())
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;
    use crate::options::Secret;

    /// Characters that a shell, Python or a terminal might act upon.
    const HOSTILE: &str = "it's \"quoted\" $HOME `id` \\ $(id) !! ü 🚢 \n\r\t\u{1b}[201~\u{202e}\u{9b} </pre><script>";

    fn call<'a>(task: &'a str, queue: &'a str) -> Copied<'a> {
        let args =
            Value::List(vec![HOSTILE.into(), Value::Null, true.into(), Value::Big("123456789012345678901234567890".into()), 1.5.into()]);
        let kwargs = Value::Map([("it's $key", Value::from(HOSTILE)), ("nan", f64::INFINITY.into())].into_iter().collect());
        Copied { task, queue: Some(queue), args, kwargs }
    }

    /// Returns what a program of this name gets from a shell, each argument by itself.
    fn run(program: &str, line: &str) -> Vec<String> {
        let script = format!("{program}() {{ printf '%s\\0' \"$@\"; }}\n{line}");
        let output = Command::new("sh").args(["-euc", &script]).env("LONGSHORE_WEB_TOKEN", "the token").output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    fn parsed(json: &str) -> Value {
        Value::parse(json.as_bytes(), 10).unwrap()
    }

    #[test]
    fn a_shell_passes_on_what_the_task_was_called_with() {
        let copied = call("it's `a` $task\nof two lines", "q'ueue");
        let got = run("longshore", &copied.longshore().unwrap());
        assert_eq!((&got[0][..], &got[1][..], &got[3][..]), ("call", "-a", "-k"));
        assert_eq!((parsed(&got[2]), parsed(&got[4])), (copied.args.clone(), copied.kwargs.clone()));
        assert_eq!(got[5..], ["--queue=q'ueue", copied.task]);
        assert_eq!(run("longshore", &call("-w", "q").longshore().unwrap())[6..], ["--", "-w"]);
    }

    #[test]
    fn curl_gets_the_address_the_proof_and_a_body_that_the_door_reads() {
        let copied = call("it's a/task", "q'ueue");
        let token = Access::Token(Secret::new("the token"));
        let got = run("curl", &copied.curl("http://localhost:7070", &token).unwrap());
        assert_eq!(got[..4], ["-H", "Authorization: Bearer the token", "-H", "Content-Type: application/json"]);
        let body = parsed(&got[5]);
        assert_eq!((body.get("args"), body.get("kwargs")), (Some(&copied.args), Some(&copied.kwargs)));
        assert_eq!(body.get("queue").and_then(Value::as_str), Some("q'ueue"));
        assert_eq!(got[6..], ["http://localhost:7070/api/v1/tasks/it%27s%20a%2Ftask"]);
        let basic = Access::Basic { user: "o'hara".to_owned(), password: Secret::new("") };
        assert_eq!(run("curl", &copied.curl("http://h", &basic).unwrap())[..2], ["-u", "o'hara"]);
    }

    #[test]
    fn python_calls_the_task_with_the_same_values() {
        let copied = call("it's \"a\" task\n", "q\\ueue");
        let program =
            "import json, sys\nclass app:\n  send_task = lambda *a, **k: print(json.dumps([a, k]))\nexec(sys.stdin.buffer.read().decode())";
        let child = Command::new("python3").args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = child else { return longshore_testkit::left_out::missing("python3 is missing") };
        child.stdin.take().unwrap().write_all(copied.python().unwrap().as_bytes()).unwrap();
        let got = parsed(&String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap());
        let want = Value::Map(
            [("args", copied.args.clone()), ("kwargs", copied.kwargs.clone()), ("queue", "q\\ueue".into())].into_iter().collect(),
        );
        assert_eq!(got, Value::List(vec![Value::List(vec![copied.task.into()]), want]));
    }

    #[test]
    fn what_a_terminal_would_act_upon_stands_nowhere() {
        for way in call("shop.pay", "celery").ways(Some(("http://h", &Access::Open))) {
            assert!(!way.text.contains(acts), "{way:?}");
        }
        // Where a name holds it, only Python is left, in which it is an escape.
        let ways = call("shop.pay", "celery\u{1b}[201~").ways(None);
        assert_eq!(ways.iter().map(|way| way.label).collect::<Vec<_>>(), ["Python"]);
        let long = Copied { args: Value::List(vec!["x".repeat(LONGEST).into()]), ..call("shop.pay", "celery") };
        assert_eq!(long.ways(None), []);
        let surrogate = Copied { args: parsed(r#"["\ud800"]"#), ..call("shop.pay", "celery") };
        assert_eq!(surrogate.ways(None).iter().map(|way| way.label).collect::<Vec<_>>(), ["longshore"]);
    }
}
