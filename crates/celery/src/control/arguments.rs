//! Arguments by name, bound as Python binds them; what it says where it cannot is what clients
//! show.

use super::error;
use crate::{
    result::Exception,
    value::{Map, Value},
};

/// Parameters of a command: its name in Python, those that it must and those that it may be given,
/// and whether it ignores all else.
pub(super) struct Parameters {
    pub(super) name: &'static str,
    pub(super) required: &'static [&'static str],
    pub(super) optional: &'static [&'static str],
    pub(super) open: bool,
}

impl Parameters {
    /// Checks the arguments.
    ///
    /// # Errors
    /// The reply.
    pub(super) fn check(&self, arguments: &Map) -> Result<(), Value> {
        let known = |name: &str| self.required.contains(&name) || self.optional.contains(&name);
        if let Some((name, _)) = arguments.iter().find(|(name, _)| !self.open && !known(name)) {
            return Err(type_error(&format!("{}() got an unexpected keyword argument '{name}'", self.name)));
        }
        let missing: Vec<String> =
            self.required.iter().filter(|name| arguments.get(name).is_none()).map(|name| format!("'{name}'")).collect();
        let several = if missing.len() == 1 { "" } else { "s" };
        let listed = match &missing[..] {
            [] => return Ok(()),
            [one] => one.clone(),
            [one, other] => format!("{one} and {other}"),
            [first @ .., last] => format!("{}, and {last}", first.join(", ")),
        };
        Err(type_error(&format!("{}() missing {} required positional argument{several}: {listed}", self.name, missing.len())))
    }
}

/// The reply to arguments of a wrong type.
pub(super) fn type_error(text: &str) -> Value {
    raised("TypeError", text)
}

/// The reply when Python raises this.
pub(super) fn raised(class: &str, text: &str) -> Value {
    error(&Exception::builtin(class, text).to_string())
}
