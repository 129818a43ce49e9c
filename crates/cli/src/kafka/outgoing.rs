//! Records for Kafka, made of records of the input: key, value, headers.

use longshore_core::TaskError;

use longshore_run::{
    record::Record,
    template::{Shape, Template, TemplateError, Vars},
};

/// A record that goes out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Vec<u8>,
    /// The headers.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Plan by which records are made, with its templates compiled.
#[derive(Debug, Default)]
pub struct RecordPlan {
    key: Option<Template>,
    value: Option<Template>,
    headers: Vec<(String, Template)>,
    separator: Option<Vec<u8>>,
}

impl RecordPlan {
    /// Compiles what the command line says. `separator` is what stands between the key and the
    /// value of a line.
    ///
    /// # Errors
    /// A sentence for people: a bad template, a field that cannot be there.
    pub fn compile(
        key: Option<&str>,
        value: Option<&str>,
        headers: &[String],
        separator: Option<&str>,
        shape: &Shape,
    ) -> Result<Self, String> {
        let template = |flag: &str, text: &str| Template::parse(text, shape).map_err(|error: TemplateError| format!("{flag}: {error}"));
        let headers = headers.iter().map(|header| {
            let (name, text) = header.split_once(':').ok_or_else(|| format!("-H {header}: write 'name: value'"))?;
            Ok((name.trim().to_owned(), template("-H", text.trim())?))
        });
        Ok(Self {
            key: key.map(|key| template("--key", key)).transpose()?,
            value: value.map(|value| template("--value", value)).transpose()?,
            headers: headers.collect::<Result<_, String>>()?,
            separator: separator.map(unescaped),
        })
    }

    /// Returns true where it makes the value.
    pub fn has_value(&self) -> bool {
        self.value.is_some()
    }

    /// Returns true where it looks into records at all.
    pub fn looks_inside(&self) -> bool {
        self.key.is_some() || self.value.is_some() || !self.headers.is_empty()
    }

    /// Makes the record to send of one that was read. Without templates a row of a table is sent as
    /// a JSON object, anything else as it stands there.
    ///
    /// # Errors
    /// The record's own, with its place; kind `invalid`.
    pub fn of(&self, record: &Record) -> Result<Outgoing, TaskError> {
        record.check()?;
        let vars = Vars::default();
        let (mut key, mut value) = (None, None);
        if let Some(separator) = &self.separator {
            let bytes = record.bytes()?;
            let at = memchr::memmem::find(&bytes, separator);
            let at = at.ok_or_else(|| {
                record.invalid(format_args!("`{}` does not stand in it", String::from_utf8_lossy(separator).escape_debug()))
            })?;
            key = Some(bytes[..at].to_vec());
            value = Some(bytes[at + separator.len()..].to_vec());
        }
        if let Some(template) = &self.key {
            key = Some(template.render_bytes(record, &vars)?);
        }
        let value = match (&self.value, value) {
            (Some(template), _) => template.render_bytes(record, &vars)?,
            (None, Some(value)) => value,
            (None, None) if record.as_row().is_some() => record.to_json().get().as_bytes().to_vec(),
            (None, None) => record.raw().to_vec(),
        };
        let header = |(name, template): &(String, Template)| Ok((name.clone(), template.render_bytes(record, &vars)?));
        Ok(Outgoing { key, value, headers: self.headers.iter().map(header).collect::<Result<_, TaskError>>()? })
    }
}

/// `\t`, `\n`, `\0` and `\\` as what they stand for: not every shell writes them easily.
fn unescaped(text: &str) -> Vec<u8> {
    text.replace("\\\\", "\u{1}").replace("\\t", "\t").replace("\\n", "\n").replace("\\0", "\0").replace('\u{1}', "\\").into_bytes()
}

/// A JSON object of at least so many bytes: what is missing is a field of dots.
pub fn padded(json: String, size: usize) -> String {
    const HEAD: &str = r#","padding":""#;
    let missing = size.saturating_sub(json.len());
    if missing == 0 {
        return json;
    }
    let dots = missing.saturating_sub(HEAD.len() + 1);
    format!("{}{HEAD}{}\"}}", json.trim_end_matches('}'), ".".repeat(dots))
}

#[cfg(test)]
mod tests {
    use super::{RecordPlan, padded};
    use longshore_run::{
        record::testing::{json, line, row},
        template::Shape,
    };

    fn texts(plan: &RecordPlan, record: &longshore_run::record::Record) -> Result<(Option<String>, String), String> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        plan.of(record).map(|out| (out.key.map(text), text(out.value))).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn keys_and_values_come_from_lines_templates_or_the_record_itself() {
        let plan = |key, value, separator, shape: Shape| RecordPlan::compile(key, value, &[], separator, &shape).expect("it compiles");
        let lines = plan(None, None, Some("\\t"), Shape::lines());
        assert_eq!(texts(&lines, &line("k\tv\tw")), Ok((Some("k".into()), "v\tw".into())));
        assert_eq!(texts(&lines, &line("\t")), Ok((Some(String::new()), String::new())));
        let error = texts(&lines, &line("no tab")).expect_err("there is none");
        assert_eq!(error, "in.txt line 7: `\\t` does not stand in it");
        let plain = plan(None, None, None, Shape::lines());
        assert_eq!(texts(&plain, &line("a b")), Ok((None, "a b".into())));
        let by_id = plan(Some("{{ id % 10 }}"), Some("<{name}>"), None, Shape::json());
        assert_eq!(texts(&by_id, &json(r#"{"id":17,"name":"x"}"#)), Ok((Some("7".into()), "<x>".into())));
        assert!(texts(&by_id, &json(r#"{"id":17}"#)).is_err_and(|error| error.contains("in.txt line 7: no field `name`")));
        assert!(texts(&by_id, &json("{")).is_err_and(|error| error.contains("in.txt line 7, column 1")));
        let rows = plan(None, None, None, Shape::json());
        assert_eq!(texts(&rows, &row(&["id", "make"], &[b"1", b"VW"])), Ok((None, r#"{"id":"1","make":"VW"}"#.into())));
    }

    #[test]
    fn a_field_that_cannot_be_there_is_refused_before_anything_is_sent() {
        let error = RecordPlan::compile(Some("{id}"), None, &[], None, &Shape::lines()).expect_err("lines have no fields");
        assert!(error.starts_with("--key: "), "{error}");
        let error = RecordPlan::compile(None, None, &["trace".to_owned()], None, &Shape::lines()).expect_err("no colon");
        assert!(error.contains("'name: value'"), "{error}");
    }

    #[test]
    fn padding_reaches_the_size_and_stays_json() {
        for size in [0, 10, 15, 29, 30, 31, 100] {
            let text = padded(r#"{"id":1}"#.to_owned(), size);
            assert!(text.len() >= size && text.len() <= size.max(8) + 14, "{size}: {text}");
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
        }
    }
}
