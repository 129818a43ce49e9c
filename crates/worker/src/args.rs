//! Positional and keyword arguments against the parameters of a function, by Python's rules and
//! with Python's words.

use longshore_celery::{Map, Value};
use serde::de::DeserializeOwned;

use crate::{failure::Failure, values};

/// Arguments of a call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Call {
    /// Positional arguments.
    pub args: Vec<Value>,
    /// Keyword arguments.
    pub kwargs: Map,
}

/// A parameter of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// The arguments that it takes.
    pub kind: ParameterKind,
}

/// The arguments that a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// One, which every call must give. By place or by name; behind [`Args`](Self::Args) by name
    /// only.
    Required,
    /// One, which a call may leave out.
    Optional,
    /// All further positional ones, as a list (`*args`).
    Args,
    /// All keyword ones that no other parameter is named after, as a map (`**kwargs`).
    Kwargs,
}

impl Parameter {
    /// Returns one that every call must give.
    pub const fn required(name: &'static str) -> Self {
        Self { name, kind: ParameterKind::Required }
    }

    /// Returns one that a call may leave out.
    pub const fn optional(name: &'static str) -> Self {
        Self { name, kind: ParameterKind::Optional }
    }

    /// Returns one that takes all further positional arguments.
    pub const fn args(name: &'static str) -> Self {
        Self { name, kind: ParameterKind::Args }
    }

    /// Returns one that takes all further keyword arguments.
    pub const fn kwargs(name: &'static str) -> Self {
        Self { name, kind: ParameterKind::Kwargs }
    }

    const fn takes_one(&self) -> bool {
        matches!(self.kind, ParameterKind::Required | ParameterKind::Optional)
    }
}

/// Arguments of a call, parameter by parameter. Taken in the order of the parameters.
/// ```
/// use longshore_worker::{Arguments, Call, Failure, Parameter};
///
/// const PARAMETERS: &[Parameter] = &[Parameter::required("x"), Parameter::optional("y")];
/// fn add(call: Call) -> Result<i64, Failure> {
///     let mut arguments = Arguments::bind("add", PARAMETERS, call)?;
///     Ok(arguments.take::<i64>()? + arguments.take_or(|| 10)?)
/// }
/// assert_eq!(add(Call { args: vec![1.into()], ..Call::default() }), Ok(11));
/// let failure = add(Call::default()).unwrap_err();
/// assert_eq!(failure.to_string(), "TypeError: add() missing 1 required positional argument: 'x'");
/// ```
#[derive(Debug)]
pub struct Arguments {
    function: &'static str,
    parameters: &'static [Parameter],
    values: Vec<Option<Value>>,
    next: usize,
}

impl Arguments {
    /// Binds a call to the parameters.
    ///
    /// # Errors
    /// `TypeError`, as Python words it: an argument that is missing, one too many, one that is not
    /// known or is given twice.
    pub fn bind(function: &'static str, parameters: &'static [Parameter], call: Call) -> Result<Self, Failure> {
        let given = call.args.len();
        // Those behind `*args` have no place.
        let places = parameters.iter().position(|parameter| !parameter.takes_one()).unwrap_or(parameters.len());
        let collects = |kind| parameters.iter().position(|parameter| parameter.kind == kind);
        let mut args = call.args.into_iter();
        let mut values: Vec<Option<Value>> = args.by_ref().take(places).map(Some).collect();
        values.resize_with(parameters.len(), || None);
        let mut further = None;
        for (name, value) in call.kwargs.0 {
            let Some(place) = parameters.iter().position(|parameter| parameter.takes_one() && parameter.name == name) else {
                let Some(kwargs) = collects(ParameterKind::Kwargs) else {
                    return Err(type_error(format!("{function}() got an unexpected keyword argument '{name}'")));
                };
                further.get_or_insert_with(|| (kwargs, Map::default())).1.set(name, value);
                continue;
            };
            if place < given.min(places) {
                return Err(type_error(format!("{function}() got multiple values for argument '{name}'")));
            }
            // Of a JSON object with one name twice the last one counts, as in Python.
            values[place] = Some(value);
        }
        if let Some((place, map)) = further {
            values[place] = Some(Value::Map(map));
        }
        if given > places {
            let Some(place) = collects(ParameterKind::Args) else {
                return Err(type_error(too_many(function, &parameters[..places], given)));
            };
            values[place] = Some(Value::List(args.collect()));
        }
        for (parameters, values, what) in
            [(&parameters[..places], &values[..places], "positional"), (&parameters[places..], &values[places..], "keyword-only")]
        {
            let lacks = |(parameter, value): &(&Parameter, &Option<Value>)| parameter.kind == ParameterKind::Required && value.is_none();
            let missing: Vec<&str> = parameters.iter().zip(values).filter(lacks).map(|(parameter, _)| parameter.name).collect();
            if !missing.is_empty() {
                return Err(type_error(lacking(function, what, &missing)));
            }
        }
        Ok(Self { function, parameters, values, next: 0 })
    }

    /// Takes the next argument, which its parameter requires.
    ///
    /// # Errors
    /// `TypeError`: it is not of this type.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let (name, value) = self.advance();
        // Of an optional parameter that is taken so, nothing is `None`.
        values::to(value.unwrap_or_default()).map_err(|error| self.wrong(name, &error))
    }

    /// Takes what the next parameter has collected of further arguments (`*args`, `**kwargs`);
    /// nothing, where there were none.
    ///
    /// # Errors
    /// `TypeError`: one of them is not of this type.
    pub fn take_further<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let is_map = self.parameters.get(self.next).is_some_and(|parameter| parameter.kind == ParameterKind::Kwargs);
        let (name, value) = self.advance();
        let value = value.unwrap_or_else(|| if is_map { Value::Map(Map::default()) } else { Value::List(Vec::new()) });
        values::to(value).map_err(|error| self.wrong(name, &error))
    }

    /// Takes the next argument as it came.
    pub fn take_value(&mut self) -> Value {
        self.advance().1.unwrap_or_default()
    }

    /// Takes the next argument, or `default` where the call leaves it out.
    ///
    /// # Errors
    /// `TypeError`: it is not of this type.
    pub fn take_or<T: DeserializeOwned>(&mut self, default: impl FnOnce() -> T) -> Result<T, Failure> {
        let (name, value) = self.advance();
        match value {
            Some(value) => values::to(value).map_err(|error| self.wrong(name, &error)),
            None => Ok(default()),
        }
    }

    fn advance(&mut self) -> (&'static str, Option<Value>) {
        let place = self.next;
        self.next += 1;
        (self.parameters.get(place).map_or("", |parameter| parameter.name), self.values.get_mut(place).and_then(Option::take))
    }

    fn wrong(&self, name: &str, error: &str) -> Failure {
        type_error(format!("{}() argument '{name}': {error}", self.function))
    }
}

fn type_error(text: String) -> Failure {
    Failure::error("TypeError", text)
}

fn too_many(function: &str, parameters: &[Parameter], given: usize) -> String {
    let most = parameters.len();
    let least = parameters.iter().filter(|parameter| parameter.kind == ParameterKind::Required).count();
    let takes = if least < most { format!("from {least} to {most}") } else { most.to_string() };
    // Python counts the larger number for the plural, and says "was" for one.
    let plural = if most == 1 { "" } else { "s" };
    let were = if given == 1 { "was" } else { "were" };
    format!("{function}() takes {takes} positional argument{plural} but {given} {were} given")
}

fn lacking(function: &str, what: &str, missing: &[&str]) -> String {
    let quoted: Vec<String> = missing.iter().map(|name| format!("'{name}'")).collect();
    let (plural, names) = match quoted.as_slice() {
        [one] => ("", one.clone()),
        [one, two] => ("s", format!("{one} and {two}")),
        [others @ .., last] => ("s", format!("{}, and {last}", others.join(", "))),
        [] => ("s", String::new()),
    };
    format!("{function}() missing {} required {what} argument{plural}: {names}", missing.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn all(names: [&'static str; 3]) -> [Parameter; 3] {
        [Parameter::required(names[0]), Parameter::required(names[1]), Parameter::required(names[2])]
    }
    static XYZ: [Parameter; 3] = all(["x", "y", "z"]);
    static X: [Parameter; 1] = [Parameter::required("x")];
    static X_Y: [Parameter; 2] = [Parameter::required("x"), Parameter::optional("y")];

    fn call(args: &[i64], kwargs: &[(&str, i64)]) -> Call {
        Call {
            args: args.iter().map(|&arg| arg.into()).collect(),
            kwargs: Map(kwargs.iter().map(|&(name, arg)| (name.to_owned(), arg.into())).collect()),
        }
    }

    /// The texts are those of Python 3.11.
    #[test]
    fn a_call_that_does_not_fit_fails_as_it_does_in_python() {
        for (parameters, args, kwargs, says) in [
            (&XYZ[..0], &[1_i64][..], &[][..], "f() takes 0 positional arguments but 1 was given"),
            (&X, &[1, 2], &[], "f() takes 1 positional argument but 2 were given"),
            (&X_Y, &[1, 2, 3], &[], "f() takes from 1 to 2 positional arguments but 3 were given"),
            (&XYZ, &[1, 2], &[], "f() missing 1 required positional argument: 'z'"),
            (&XYZ, &[1], &[], "f() missing 2 required positional arguments: 'y' and 'z'"),
            (&XYZ, &[], &[], "f() missing 3 required positional arguments: 'x', 'y', and 'z'"),
            (&XYZ, &[1], &[("z", 3)], "f() missing 1 required positional argument: 'y'"),
            (&X, &[], &[("q", 1)], "f() got an unexpected keyword argument 'q'"),
            (&X, &[1], &[("x", 1)], "f() got multiple values for argument 'x'"),
            (&X, &[1, 2], &[("x", 1)], "f() got multiple values for argument 'x'"),
        ] {
            let failure = Arguments::bind("f", parameters, call(args, kwargs)).unwrap_err();
            assert_eq!(failure, Failure::error("TypeError", says));
        }
    }

    #[test]
    fn arguments_come_by_place_by_name_and_by_default() {
        for (args, kwargs, want) in [
            (&[1_i64, 2][..], &[][..], (1_i64, 2_i64)),
            (&[1], &[("y", 5)], (1, 5)),
            (&[], &[("y", 5), ("x", 4)], (4, 5)),
            (&[], &[("x", 4), ("x", 6)], (6, 10)),
            (&[1], &[], (1, 10)),
        ] {
            let mut bound = Arguments::bind("f", &X_Y, call(args, kwargs)).unwrap();
            assert_eq!((bound.take().unwrap(), bound.take_or(|| 10).unwrap()), want);
        }
    }

    static ALL: [Parameter; 4] =
        [Parameter::required("x"), Parameter::args("rest"), Parameter::required("unit"), Parameter::kwargs("others")];

    /// As `def f(x, *rest, unit, **others)` takes them; the texts are those of Python 3.11.
    #[test]
    fn further_arguments_are_collected_as_in_python() {
        for (args, kwargs, rest, others) in [
            (&[1_i64][..], &[("unit", 7)][..], &[][..], &[][..]),
            (&[1, 2, 3], &[("unit", 7)], &[2_i64, 3], &[]),
            (&[], &[("x", 1), ("b", 2), ("unit", 7), ("rest", 3)], &[], &[("b", 2_i64), ("rest", 3)]),
        ] {
            let mut bound = Arguments::bind("f", &ALL, call(args, kwargs)).unwrap();
            assert_eq!((bound.take::<i64>(), bound.take_further::<Vec<i64>>()), (Ok(1), Ok(rest.to_vec())));
            let others = Map(others.iter().map(|&(name, value)| (name.to_owned(), Value::Int(value))).collect());
            assert_eq!((bound.take::<i64>(), bound.take_further::<Map>()), (Ok(7), Ok(others)));
        }
        for (args, kwargs, says) in [
            (&[1_i64][..], &[][..], "f() missing 1 required keyword-only argument: 'unit'"),
            (&[], &[], "f() missing 1 required positional argument: 'x'"),
            (&[1, 2], &[("x", 3), ("unit", 7)], "f() got multiple values for argument 'x'"),
        ] {
            let failure = Arguments::bind("f", &ALL, call(args, kwargs)).unwrap_err();
            assert_eq!(failure, Failure::error("TypeError", says));
        }
    }

    #[test]
    fn an_argument_of_another_type_is_named() {
        let mut bound = Arguments::bind("f", &X, Call { args: vec!["one".into()], ..Call::default() }).unwrap();
        let text = bound.take::<i64>().unwrap_err().to_string();
        assert!(text.starts_with("TypeError: f() argument 'x': "), "{text}");
    }

    #[test]
    fn an_option_that_is_left_out_is_none() {
        let mut bound = Arguments::bind("f", &X_Y, call(&[1], &[])).unwrap();
        assert_eq!((bound.take::<u8>(), bound.take::<Option<u8>>()), (Ok(1), Ok(None)));
    }
}
