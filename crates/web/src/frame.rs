//! The page around all pages: templates, navigation, form tokens, what is said after an action.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{Arc, OnceLock},
};

use axum::{
    Extension,
    extract::{OriginalUri, RawPathParams, RawQuery},
    http::{HeaderMap, HeaderValue, Uri, header},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{MethodRouter, get},
};
use minijinja::{Environment, Value, context};

use crate::{
    actions::Actions,
    audit::Action,
    error::WebError,
    guard::{Caller, FormFields, Guard, decode, own_path},
    live::{self, LivePages, Renewal},
    templates::{self, refusal},
};

/// A page that is to be shown.
pub(crate) struct Page {
    template: &'static str,
    title: String,
    context: Value,
}

impl Page {
    /// Shows a template with what it needs.
    pub(crate) fn new(template: &'static str, title: impl Into<String>, context: Value) -> Self {
        Self { template, title: title.into(), context }
    }
}

/// A place in the navigation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NavPlace {
    pub(crate) path: &'static str,
    pub(crate) label: &'static str,
    /// Letter that leads there behind `g`; empty where there is one place only.
    pub(crate) key: &'static str,
}

/// Request for a page.
pub(crate) struct PageRequest {
    pub(crate) path: String,
    params: HashMap<String, String>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) caller: Caller,
    theme: Option<&'static str>,
    /// Address under which this server was asked, if it is a plain one.
    pub(crate) own_address: Option<String>,
}

impl PageRequest {
    /// Reads what is asked for.
    pub(crate) fn new(uri: &Uri, params: &RawPathParams, query: Option<&str>, caller: Caller) -> Self {
        Self {
            path: uri.path().to_owned(),
            params: params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            query: read_query(query.unwrap_or_default()),
            caller,
            theme: None,
            own_address: None,
        }
    }

    /// Returns a part of the path.
    pub(crate) fn param(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }

    /// Returns a field of the query, if it is not empty.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

impl PageRequest {
    /// Returns path and query, without what was said of an action.
    fn address(&self) -> String {
        let fields = self.query.iter().filter(|(name, _)| !["said", "refused", "mark"].contains(&name.as_str()));
        let fields: Vec<String> = fields.map(|(name, value)| format!("{}={}", in_query(name), in_query(value))).collect();
        if fields.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, fields.join("&")) }
    }

    /// Returns a whole number of the query, if it is there.
    pub(crate) fn number(&self, name: &str) -> Result<Option<usize>, WebError> {
        let wrong = |text: &str| WebError::unprocessable(format!("{name} is a whole number, not {text:?}"));
        self.query(name).map(|text| text.parse().map_err(|_| wrong(text))).transpose()
    }
}

/// Longest words after an action, in characters.
const LONGEST_SAID: usize = 600;

/// Words after an action: what was done, or why not.
pub(crate) struct Said {
    text: String,
    is_error: bool,
}

impl Said {
    pub(crate) fn done(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_error: false }
    }

    pub(crate) fn refused(text: impl fmt::Display) -> Self {
        Self { text: text.to_string(), is_error: true }
    }

    /// Returns what is marked as ours: the words, their kind, and whom they are for.
    fn told_to(&self, caller: &Caller) -> String {
        format!("{}\n{}\n{}", self.is_error, caller.name, self.text)
    }
}

/// Draws pages of a site.
pub(crate) struct Frame {
    pub(crate) guard: Arc<Guard>,
    pub(crate) live: Arc<LivePages>,
    pub(crate) actions: Actions,
    templates: &'static Environment<'static>,
    name: String,
    nav: Vec<NavPlace>,
    notices: OnceLock<Notices>,
}

/// Tells what whoever looks should know, on every page.
type Notices = Box<dyn Fn() -> Vec<String> + Send + Sync>;

impl Frame {
    /// Draws pages of a site with this name and navigation.
    pub(crate) fn new(guard: Arc<Guard>, name: String, nav: Vec<NavPlace>) -> Self {
        Self { guard, live: Arc::default(), actions: Actions::default(), templates: templates::all(), name, nav, notices: OnceLock::new() }
    }

    /// Says who knows what every page has to tell.
    pub(crate) fn notices(&self, tell: impl Fn() -> Vec<String> + Send + Sync + 'static) {
        let _ = self.notices.set(Box::new(tell));
    }

    /// Returns a page as HTML.
    pub(crate) fn draw(&self, page: &Page, request: &PageRequest) -> Result<String, WebError> {
        let said = self.said(request).map(|said| context! { text => said.text, is_error => said.is_error });
        let here = |place: &NavPlace| if place.path == "/" { request.path == "/" } else { request.path.starts_with(place.path) };
        let nav: Vec<Value> = self
            .nav
            .iter()
            .map(|place| context! { path => place.path, label => place.label, key => place.key, here => here(place) })
            .collect();
        self.render(
            page,
            context! {
                nav, said,
                notices => self.notices.get().map(|tell| tell()).unwrap_or_default(),
                path => request.path.clone(),
                back => request.address(),
                caller => request.caller.name.clone(),
                theme => request.theme,
                form_token => self.guard.form_token(&request.caller.name),
            },
        )
    }

    /// Returns what was said of an action, if it was said here and to this caller: a link of
    /// somebody else's has no mark, and its words would stand on the page as ours.
    fn said(&self, request: &PageRequest) -> Option<Said> {
        let said = Said { text: request.query("said")?.to_owned(), is_error: request.query("refused").is_some() };
        let mark = request.query("mark")?;
        self.guard.has_marked(&said.told_to(&request.caller), mark).then_some(said)
    }

    fn render(&self, page: &Page, around: Value) -> Result<String, WebError> {
        let own = context! {
            title => page.title.clone(),
            site => self.name.clone(),
            read_only => self.guard.options.read_only,
            hide_args => self.guard.options.hide_args,
        };
        let context = context! { ..page.context.clone(), ..around, ..own };
        templates::draw(self.templates, page.template, context)
    }

    /// Answers with a page that has no navigation and no caller.
    pub(crate) fn bare(&self, page: Page) -> Response {
        match self.render(&page, context! {}) {
            Ok(html) => Html(html).into_response(),
            Err(error) => refusal(&error),
        }
    }

    /// Notes an action in the log of actions.
    pub(crate) fn note(&self, caller: &Caller, action: &mut Action, refused: Option<String>) {
        action.who = caller.name.clone().into_owned();
        action.from = caller.from.to_string();
        action.refused = refused;
        self.guard.actions.note(action);
        match &self.guard.options.audit {
            Some(audit) => audit.tell(action),
            None => {
                let action = serde_json::to_string(action).unwrap_or_default();
                tracing::info!(target: "longshore::audit", "{action}");
            }
        }
    }

    /// Notes an action, and says what came of it on the page that it was taken from.
    pub(crate) fn answer(&self, caller: &Caller, form: &FormFields, action: &mut Action, said: Said) -> Response {
        self.note(caller, action, said.is_error.then(|| said.text.clone()));
        let said = Said { text: said.text.chars().take(LONGEST_SAID).collect(), ..said };
        let mark = self.guard.mark(&said.told_to(caller));
        let back = own_path(form.get("back").unwrap_or("/"));
        let separator = if back.contains('?') { '&' } else { '?' };
        let text = in_query(&said.text);
        let refused = if said.is_error { "&refused=1" } else { "" };
        Redirect::to(&format!("{back}{separator}said={text}{refused}&mark={mark}")).into_response()
    }
}

/// Writes a text for a query.
pub(crate) fn in_query(text: &str) -> String {
    text.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Returns the route of a page: `make` gathers what it shows. Asked for an event stream, it sends
/// what changes.
pub(crate) fn page<S, M, F, R>(frame: &Arc<Frame>, state: &Arc<S>, make: M) -> MethodRouter<R>
where
    R: Clone + Send + Sync + 'static,
    S: Send + Sync + 'static,
    M: Fn(Arc<S>, Arc<PageRequest>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Page, WebError>> + Send + 'static,
{
    drawn(frame, state, make, Renewal::EachSecond)
}

/// The same for a page that asks the broker or workers for what it shows: it renews itself more
/// rarely, and all of its kind together cost them little.
pub(crate) fn asking_page<S, M, F, R>(frame: &Arc<Frame>, state: &Arc<S>, make: M) -> MethodRouter<R>
where
    R: Clone + Send + Sync + 'static,
    S: Send + Sync + 'static,
    M: Fn(Arc<S>, Arc<PageRequest>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Page, WebError>> + Send + 'static,
{
    drawn(frame, state, make, Renewal::InTurn)
}

fn drawn<S, M, F, R>(frame: &Arc<Frame>, state: &Arc<S>, make: M, renewal: Renewal) -> MethodRouter<R>
where
    R: Clone + Send + Sync + 'static,
    S: Send + Sync + 'static,
    M: Fn(Arc<S>, Arc<PageRequest>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Page, WebError>> + Send + 'static,
{
    let (frame, state) = (frame.clone(), state.clone());
    get(
        move |OriginalUri(uri): OriginalUri,
              params: RawPathParams,
              RawQuery(query): RawQuery,
              Extension(caller): Extension<Caller>,
              headers: HeaderMap| {
            let (frame, state, make) = (frame.clone(), state.clone(), make.clone());
            let (theme, own_address) = (theme(&headers), own_address(&headers));
            let request = PageRequest { theme, own_address, ..PageRequest::new(&uri, &params, query.as_deref(), caller) };
            let request = Arc::new(request);
            async move {
                let draw = {
                    let frame = frame.clone();
                    move || {
                        let (frame, request, made) = (frame.clone(), request.clone(), make(state.clone(), request.clone()));
                        async move { frame.draw(&made.await?, &request) }
                    }
                };
                if wants_stream(&headers) {
                    return live::stream(&frame.live, renewal, draw);
                }
                match draw().await {
                    Ok(html) => Html(html).into_response(),
                    Err(error) => refusal(&error),
                }
            }
        },
    )
}

fn wants_stream(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).is_some_and(|accept: &HeaderValue| accept.as_bytes().starts_with(b"text/event-stream"))
}

/// Returns the address under which somebody asks, to be shown to them.
fn own_address(headers: &HeaderMap) -> Option<String> {
    let told = |name: &str| headers.get(name)?.to_str().ok();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    let host = told("host").filter(|host| !host.is_empty() && host.bytes().all(is_plain))?;
    let scheme = if told("x-forwarded-proto") == Some("https") { "https" } else { "http" };
    Some(format!("{scheme}://{host}"))
}

/// Returns the theme that somebody chose; `None`: that of the system.
fn theme(headers: &HeaderMap) -> Option<&'static str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    cookies.flat_map(|cookies| cookies.split(';')).find_map(|cookie| match cookie.trim() {
        "longshore_theme=dark" => Some("dark"),
        "longshore_theme=light" => Some("light"),
        _ => None,
    })
}

/// Reads the fields of a query.
pub(crate) fn read_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name.as_bytes()), decode(value.as_bytes()))
        })
        .collect()
}
