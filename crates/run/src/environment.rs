//! What a child finds in its environment.

use std::{ffi::OsString, path::Path};

use longshore_brokers::{is_secret, mask_value};

use crate::template::{Expr, Shape, Vars};

/// Returns variables that let most programs write each line at once.
///
/// Left to themselves they keep lines back when nobody looks at a terminal, and a child that
/// answers line by line would never be heard: C programs through coreutils' libstdbuf where that is
/// there, Python by its own switch.
pub fn line_by_line() -> Vec<(OsString, OsString)> {
    let mut env = vec![("PYTHONUNBUFFERED".into(), "1".into())];
    let library = ["/usr/libexec/coreutils/libstdbuf.so", "/usr/lib/coreutils/libstdbuf.so"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists());
    if let Some(library) = library {
        let mut preload = OsString::from(library);
        if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
            preload.push(":");
            preload.push(others);
        }
        env.extend([("LD_PRELOAD".into(), preload), ("_STDBUF_O".into(), "L".into())]);
    }
    env
}

/// Evaluates what children that stay are told: they outlive records, so it cannot depend on one.
///
/// # Errors
/// The name of a variable that does.
pub fn constants(env: &[(OsString, Expr)]) -> Result<Vec<(OsString, OsString)>, String> {
    let constant = |(name, value): &(OsString, Expr)| {
        let text = String::from_utf8_lossy(value.source()).into_owned();
        let value = Expr::parse(&text, &Shape::lines())
            .ok()
            .filter(Expr::is_constant)
            .and_then(|expr| expr.eval_text(&crate::record::nobody(), &Vars::default()).ok());
        Ok((name.clone(), value.ok_or_else(|| name.to_string_lossy().into_owned())?.into()))
    };
    env.iter().map(constant).collect()
}

/// Returns where something runs and what it finds there, for the journal's hash.
pub fn surroundings(cwd: Option<&Path>, env: &[(OsString, Expr)]) -> Vec<Vec<u8>> {
    let mut all = vec![cwd.map_or(Vec::new(), |path| path.as_os_str().as_encoded_bytes().to_vec())];
    for (name, expr) in env {
        all.extend([b"env".to_vec(), name.as_encoded_bytes().to_vec(), expr.source().to_vec()]);
    }
    all
}

/// Parses `NAME=EXPR`.
///
/// # Errors
/// A sentence for people, without the flag's name.
pub fn env_pair(pair: &str, shape: &Shape) -> Result<(OsString, Expr), String> {
    let shown = mask_value("env", pair);
    let (name, expr) = pair.split_once('=').ok_or_else(|| format!("{shown}: write NAME=EXPR"))?;
    if name.is_empty() || name.contains('\0') {
        return Err(format!("{shown}: `{name}` is not a name of a variable"));
    }
    let parsed = Expr::parse(expr, shape).map_err(|error| match is_secret(name) {
        true => format!("{name}: what stands there is no field and no template, and is not shown: it may be a secret (a text of its own is written {{{{ '…' }}}})"),
        false => format!("{name}: {error} (a text of its own is written {{{{ '{expr}' }}}})"),
    })?;
    Ok((name.into(), parsed))
}
