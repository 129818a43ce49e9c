//! What a task returns, as the compiler sees it: generated code asks whether it is a `Result`.

use std::marker::PhantomData;

/// A `Result`, whatever it is called.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no `Result`",
    label = "`#[task(fallible)]` says that it is one",
    note = "leave `fallible` out where a task returns a plain value"
)]
pub trait Fallible {
    /// Type of the result.
    type Ok;
}

impl<T, E> Fallible for Result<T, E> {
    type Ok = T;
}

/// Asks of a type whether it is a `Result`: the constant of its own counts before that of the
/// trait.
pub struct Returned<T>(PhantomData<T>);

impl<T, E> Returned<Result<T, E>> {
    /// It is.
    pub const IS_RESULT: bool = true;
}

/// The answer for all other types.
pub trait NoResult {
    /// It is none.
    const IS_RESULT: bool = false;
}

impl<T> NoResult for Returned<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    type Reply<T> = Result<T, String>;

    #[test]
    fn a_result_is_one_under_any_name() {
        const ALIAS: bool = Returned::<Reply<u8>>::IS_RESULT;
        const OTHER: bool = Returned::<Option<u8>>::IS_RESULT;
        assert_eq!((ALIAS, OTHER), (true, false));
    }
}
