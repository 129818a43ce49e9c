//! The flags of everything that is served over HTTP.

use std::net::IpAddr;

use clap::Args;
use longshore_web::{Access, Secret, WebError, WebOptions};

use crate::{exit::Exit, fault::Fault};

/// Who may see and change what is served.
#[derive(Args, Clone, Debug, Default)]
pub struct WebArgs {
    /// Admit who shows this token; another address than loopback needs it, or one of the next two.
    /// Better given as the variable LONGSHORE_WEB_TOKEN
    #[arg(long, value_name = "TOKEN", help_heading = "Page")]
    pub web_token: Option<String>,
    /// Admit who has this user and password
    #[arg(long, value_name = "USER:PASSWORD", conflicts_with = "web_token", help_heading = "Page")]
    pub web_password: Option<String>,
    /// Admit whom a proxy at one of these addresses names in a header: X-Forwarded-User=10.0.0.9
    #[arg(long, value_name = "HEADER=ADDR,…", conflicts_with_all = ["web_token", "web_password"], value_parser = proxy, help_heading = "Page")]
    pub web_proxy: Option<(String, Vec<IpAddr>)>,
    /// Refuse every change over the page
    #[arg(long, help_heading = "Page")]
    pub web_read_only: bool,
    /// Show no arguments and no results of tasks
    #[arg(long, help_heading = "Page")]
    pub hide_args: bool,
}

fn proxy(text: &str) -> Result<(String, Vec<IpAddr>), String> {
    let example = "write HEADER=ADDRESS, such as X-Forwarded-User=10.0.0.9";
    let (header, from) = text.split_once('=').ok_or_else(|| format!("`{text}`: {example}"))?;
    let is_name = !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if !is_name {
        return Err(format!("`{header}` is no name of a header: {example}"));
    }
    let from: Result<Vec<IpAddr>, _> = from.split(',').map(|address| address.trim().parse()).collect();
    Ok((header.to_owned(), from.map_err(|_| format!("`{text}`: {example}"))?))
}

impl WebArgs {
    /// Returns what the flags say; actions are told to `audit`.
    ///
    /// # Errors
    /// A user without a password.
    pub(crate) fn options(&self, audit: longshore_web::Auditor) -> Result<WebOptions, Fault> {
        let mut options = WebOptions::default();
        options.access = match (&self.web_password, &self.web_proxy) {
            (Some(user), _) => {
                let (user, password) = user.split_once(':').ok_or_else(|| Fault::usage("--web-password: write USER:PASSWORD"))?;
                Access::Basic { user: user.to_owned(), password: Secret::new(password) }
            }
            (None, Some((header, from))) => Access::Proxy { header: header.clone(), from: from.clone() },
            (None, None) => match &self.web_token {
                Some(token) => Access::Token(Secret::new(token.trim())),
                None => Access::Open,
            },
        };
        options.read_only = self.web_read_only;
        options.hide_args = self.hide_args;
        options.audit = Some(audit);
        Ok(options)
    }
}

/// Returns what it means for the program that nothing can be served.
pub(crate) fn unserved(error: &WebError) -> Fault {
    Fault::new(Exit::Usage, format!("--listen {error}"))
}

/// Returns the line of the log that says what somebody did over HTTP.
pub(crate) fn audit_line(action: &longshore_web::Action) -> String {
    let to = if action.to.is_empty() { String::new() } else { format!(" {}", action.to) };
    let count = action.count.map(|count| format!(" ({count})")).unwrap_or_default();
    let ended = action.refused.as_ref().map(|why| format!(": refused: {why}")).unwrap_or_default();
    format!("page: {}{to}{count} by {} from {}{ended}", action.what, action.who, action.from)
}
