//! What cannot be in the records is refused before anything runs.

use super::{Hole, Kind, Shape, TemplateError, What, jinja::Jinja};
use crate::record::{Columns, RANGE_FIELDS, nearest};

/// Names that an expression always has.
pub(super) const ALWAYS: [&str; 4] = ["record", "seq", "slot", "attempt"];

/// Fields of a task of a queue.
const TASK_FIELDS: [&str; 5] = ["id", "task", "args", "kwargs", "attempt"];

/// Checks a placeholder.
pub(super) fn hole(hole: &Hole, shape: &Shape) -> Result<(), TemplateError> {
    match &hole.what {
        What::Path(path) => name(path.as_str(), &hole.written, shape),
        What::Part(_) if matches!(shape.kind, Kind::Range) => {
            let message = "stands for a part of a file name, but the records are ranges of a file: its name is {path}";
            Err(TemplateError::new(format!("`{}` {message}", hole.written)))
        }
        What::Part(_) if matches!(shape.kind, Kind::Task) => {
            let message = "stands for a part of a file name, but the record is a task: write {{ args[0]|split('/')|last }}";
            Err(TemplateError::new(format!("`{}` {message}", hole.written)))
        }
        What::Part(_) if matches!(shape.kind, Kind::Table(_)) => {
            let message =
                "stands for a part of a file name, but the records are rows: take a column instead, as in {{ path|split('/')|last }}";
            Err(TemplateError::new(format!("`{}` {message}", hole.written)))
        }
        What::Jinja(jinja) => expression(jinja, &hole.written, shape),
        What::Record | What::Part(_) | What::Seq | What::Slot => Ok(()),
    }
}

/// Checks the names and comparisons in an expression.
pub(super) fn expression(jinja: &Jinja, written: &str, shape: &Shape) -> Result<(), TemplateError> {
    for variable in jinja.names() {
        if !ALWAYS.contains(&variable.as_str()) {
            name(variable, written, shape)?;
        }
    }
    if let Kind::Table(Some(columns)) = &shape.kind {
        jinja.refuse_numbers_in_quotes(written, |name| columns.position(name).is_some())?;
    }
    Ok(())
}

/// Checks that a record can have a field of this name.
pub(super) fn name(name: &str, written: &str, shape: &Shape) -> Result<(), TemplateError> {
    if shape.extra.iter().any(|extra| extra == name) {
        return Ok(());
    }
    let why = match &shape.kind {
        Kind::Json if name == "0" => "columns are counted from 1".to_string(),
        Kind::Json | Kind::Table(None) => return Ok(()),
        Kind::Range if RANGE_FIELDS.contains(&name) => return Ok(()),
        Kind::Range => format!("a range of a file has no `{name}`; it has {}", RANGE_FIELDS.join(", ")),
        Kind::Task if TASK_FIELDS.contains(&name.split('.').next().unwrap_or_default()) => return Ok(()),
        Kind::Task if name.parse::<usize>().is_ok() => format!("the task's arguments count from 0: {{args.{name}}}"),
        Kind::Task => format!("a task has {}; its keyword argument is {{kwargs.{name}}}", TASK_FIELDS.join(", ")),
        Kind::Lines => {
            "the records are plain lines, which have no fields: `{}` is the line; for fields use --format csv, tsv or jsonl".to_string()
        }
        Kind::Table(Some(columns)) => match missing(name, columns) {
            Some(why) => why,
            None => return Ok(()),
        },
    };
    // Quotes inside would end the quotes around; such an expression needs no hint.
    let escape = if written.starts_with('{') && !written.contains('\'') {
        format!(" (to write the braces themselves: {{{{ '{written}' }}}})")
    } else {
        String::new()
    };
    Err(TemplateError::new(format!("`{written}`: {why}{escape}")))
}

fn missing(name: &str, columns: &Columns) -> Option<String> {
    if columns.position(name).is_some() {
        return None;
    }
    let all = columns.listed();
    let all = all.trim().trim_matches(['(', ')']);
    Some(match name.parse::<usize>() {
        Ok(0) => "columns are counted from 1".into(),
        Ok(_) => format!("there are {} columns", columns.len()),
        Err(_) if columns.is_ambiguous(name) => format!("two columns are named `{name}`: take one by its number, as in {{1}}"),
        Err(_) if !columns.is_named() => format!("the table has no header: columns are {{1}} to {{{}}}", columns.len()),
        Err(_) => match nearest(name, columns.names().iter().map(String::as_str)) {
            Some(near) => format!("no column `{name}`, did you mean `{near}`? The columns are {all}"),
            None => format!("no column `{name}`; the columns are {all}"),
        },
    })
}
