//! A request as its templates say it.

use longshore_brokers::{is_secret, mask_text};
use std::path::PathBuf;

use longshore_core::TaskError;

use super::{Body, BodySpec, HttpOptions, HttpSpec, Request, parse_header};
use crate::{
    record::{Range, Record},
    template::{Shape, Template, Vars},
};

/// A request's templates.
pub struct HttpPlan {
    spec: HttpSpec,
    url: Template,
    headers: Vec<(String, Template)>,
    body: Option<BodyPlan>,
    options: HttpOptions,
    save: Option<PathBuf>,
}

enum BodyPlan {
    Json(Template),
    Text(Template),
    Form(Vec<(String, Template)>),
}

/// Parts of a request beside its method and URL, as the user wrote them.
pub struct HttpWords<'a> {
    /// Said by flags, so that mistakes are told with dashes.
    pub dashes: bool,
    /// `Name: value`.
    pub headers: &'a [String],
    /// A body of JSON.
    pub body_json: Option<&'a str>,
    /// A body of text.
    pub body: Option<&'a str>,
    /// `NAME=VALUE`, fields of a form.
    pub form: &'a [String],
}

impl HttpPlan {
    /// Compiles what is said.
    ///
    /// # Errors
    /// A sentence for people: a bad URL, header or template, a field that cannot be there.
    pub fn compile(text: &str, words: &HttpWords<'_>, shape: &Shape, options: HttpOptions, save: Option<PathBuf>) -> Result<Self, String> {
        // Flags and keys of a configuration file come here; a mistake is told in the words that
        // were written.
        let called = |flag: &str| match words.dashes {
            true if flag == "header" => "-H".to_owned(),
            true => format!("--{flag}"),
            false => format!("`{}`", flag.replace('-', "_")),
        };
        let mut spec = HttpSpec::parse(text).map_err(|error| format!("{}: {error}", called("http")))?;
        let template = |flag: &str, text: &str| Template::parse(text, shape).map_err(|error| format!("{}: {error}", called(flag)));
        let headers = words.headers.iter().map(|header| parse_header(header)).collect::<Result<_, _>>();
        spec.headers = headers.map_err(|error| format!("{}: {error}", called("header")))?;
        // A form often has a password in it, so it is masked where it is shown.
        let form = |pair: &String| {
            let (name, value) = pair.split_once('=').ok_or_else(|| format!("{} {}: write NAME=VALUE", called("form"), mask_text(pair)))?;
            Ok::<_, String>((name.to_owned(), value.to_owned()))
        };
        spec.body = match (words.body_json, words.body, words.form.is_empty()) {
            (Some(body), _, _) => Some(BodySpec::Json(body.to_owned())),
            (_, Some(body), _) => Some(BodySpec::Text(body.to_owned())),
            (_, _, false) => Some(BodySpec::Form(words.form.iter().map(form).collect::<Result<_, _>>()?)),
            _ => None,
        };
        let url = template("http", &spec.url)?;
        let headers = spec
            .headers
            .iter()
            .map(|(name, value)| match template("header", value) {
                // The template's own message would quote the text.
                Err(_) if is_secret(name.as_str()) => Err(format!(
                    "{}: the value of `{name}` is no template (a `{{` begins a field), and is not shown: it may be a secret",
                    called("header")
                )),
                template => Ok((name.clone(), template?)),
            })
            .collect::<Result<_, String>>()?;
        let body = match &spec.body {
            None => None,
            Some(BodySpec::Json(body)) => Some(BodyPlan::Json(template("body-json", body)?)),
            Some(BodySpec::Text(body)) => Some(BodyPlan::Text(template("body", body)?)),
            Some(BodySpec::Form(fields)) => Some(BodyPlan::Form(
                fields.iter().map(|(name, value)| Ok((name.clone(), template("form", value)?))).collect::<Result<_, String>>()?,
            )),
        };
        Ok(Self { spec, url, headers, body, options, save })
    }

    /// Returns the settings by which it is sent.
    pub fn options(&self) -> &HttpOptions {
        &self.options
    }

    /// The method and the template of the URL.
    pub fn spec(&self) -> &HttpSpec {
        &self.spec
    }

    /// Returns the request as people read it, without secrets.
    pub fn text(&self) -> String {
        format!("{} {}", self.spec.effective_method(), mask_text(&self.spec.url))
    }

    /// Everything that decides what a task does, for the journal's hash.
    pub(crate) fn sources(&self) -> Vec<Vec<u8>> {
        let mut all = vec![b"http".to_vec(), self.spec.effective_method().as_str().into(), self.url.source().to_vec()];
        for (name, value) in &self.headers {
            all.extend([name.clone().into_bytes(), value.source().to_vec()]);
        }
        match &self.body {
            None => {}
            Some(BodyPlan::Json(body)) => all.extend([b"json".to_vec(), body.source().to_vec()]),
            Some(BodyPlan::Text(body)) => all.extend([b"text".to_vec(), body.source().to_vec()]),
            Some(BodyPlan::Form(fields)) => {
                all.push(b"form".to_vec());
                all.extend(fields.iter().flat_map(|(name, value)| [name.clone().into_bytes(), value.source().to_vec()]));
            }
        }
        all
    }

    /// The host that a record's request goes to.
    pub fn host(&self, record: &Record) -> Option<String> {
        let url = self.url.render_url(record, &Vars::default()).ok()?;
        reqwest::Url::parse(&url).ok()?.host_str().map(str::to_owned)
    }

    /// The request of a record.
    ///
    /// # Errors
    /// The record's own, of kind `invalid`.
    pub fn request(&self, record: &Record, vars: &Vars<'_>) -> Result<Request, TaskError> {
        record.check()?;
        record.as_range().map_or(Ok(()), Range::check_unchanged)?;
        let mut request = Request::new(self.spec.effective_method(), self.url.render_url(record, vars)?);
        for (name, value) in &self.headers {
            request.headers.push((name.clone(), value.render_str(record, vars)?));
        }
        request.body = match &self.body {
            None => None,
            Some(BodyPlan::Json(body)) => Some(Body::Json(body.render_json(record, vars)?.into_bytes())),
            Some(BodyPlan::Text(body)) => Some(Body::Text(body.render_bytes(record, vars)?)),
            Some(BodyPlan::Form(fields)) => {
                let field = |(name, value): &(String, Template)| Ok((name.clone(), value.render_str(record, vars)?));
                Some(Body::Form(fields.iter().map(field).collect::<Result<_, TaskError>>()?))
            }
        };
        request.save = self.save.as_ref().map(|dir| dir.join(format!("{}.body", record.seq())));
        Ok(request)
    }
}
