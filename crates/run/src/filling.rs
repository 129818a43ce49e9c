//! A task's arguments, filled in from a record.

use longshore_celery::{Map, Value};
use longshore_core::TaskError;

use crate::{
    record::Record,
    template::{Shape, Template, Vars},
};

/// A task's arguments as templates of records say them.
#[derive(Debug)]
pub struct Filling {
    args: Option<Template>,
    kwargs: Option<Template>,
}

impl Filling {
    /// Compiles `--args` and `--kwargs`.
    ///
    /// # Errors
    /// A sentence for people: a bad template, a field that cannot be there.
    pub fn compile(args: Option<&str>, kwargs: Option<&str>, shape: &Shape) -> Result<Self, String> {
        let template = |flag: &str, text: Option<&str>| {
            text.map(|text| Template::parse(text, shape).map_err(|error| format!("{flag}: {error}"))).transpose()
        };
        Ok(Self { args: template("--args", args)?, kwargs: template("--kwargs", kwargs)? })
    }

    /// The templates as they were written.
    pub fn sources(&self) -> [&[u8]; 2] {
        [&self.args, &self.kwargs].map(|template| template.as_ref().map_or(&b""[..], Template::source))
    }

    /// The arguments that a record makes. Without templates a plain record is the one argument, a
    /// JSON array the arguments, and an object or a row the keyword arguments.
    ///
    /// # Errors
    /// Of kind `invalid`: the record is bad, or what is filled in is no JSON of the right kind.
    pub fn fill(&self, record: &Record) -> Result<(Vec<Value>, Map), TaskError> {
        record.check()?;
        let fill = |flag: &str, template: &Template| {
            let text = template.render_json(record, &Vars::default())?;
            Value::parse(text.as_bytes(), DEPTH).map_err(|error| record.invalid(format_args!("{flag} is not JSON when filled in: {error}")))
        };
        let (mut args, mut kwargs) = (Vec::new(), Map::default());
        if self.args.is_none() && self.kwargs.is_none() {
            if record.is_plain() {
                return Ok((vec![Value::Text(record.as_text()?.into_owned())], kwargs));
            }
            match Value::parse(record.to_json().get().as_bytes(), DEPTH).map_err(|error| record.invalid(error))? {
                Value::Map(map) => kwargs = map,
                Value::List(list) => args = list,
                value => args.push(value),
            }
        }
        if let Some(template) = &self.args {
            match fill("--args", template)? {
                Value::List(list) => args = list,
                other => return Err(record.invalid(format_args!("--args is {}, not an array", other.kind()))),
            }
        }
        if let Some(template) = &self.kwargs {
            match fill("--kwargs", template)? {
                Value::Map(map) => kwargs = map,
                other => return Err(record.invalid(format_args!("--kwargs is {}, not an object", other.kind()))),
            }
        }
        Ok((args, kwargs))
    }
}

/// The deepest nesting of arguments.
const DEPTH: usize = 128;
