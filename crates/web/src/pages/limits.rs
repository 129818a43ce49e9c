//! Limits and rates: which hold, who set them; set another.

use std::sync::Arc;

use longshore_ops::limits::{self, LimitInfo, SetLimit};
use minijinja::{context, value::Serde};

use crate::{
    api::{Field, Operation, Routes},
    audit::Action,
    deployment::Deployment,
    error::WebError,
    frame::{Frame, Page, PageRequest, asking_page},
    pages::{Asked, action, facts, orders, workers::rate},
};

/// Returns the page, its action, and the facts as JSON.
pub(crate) fn routes(frame: &Arc<Frame>, deployment: &Arc<Deployment>) -> Routes {
    let all = Operation::get("/api/v1/limits", "Limits that processes share, and rates of tasks").answers("[Limit]").asks();
    let rate = Field::text("rate", "such as 10/s, 30/m or 5/h; 0: none").required();
    let acts = [
        Operation::act("/api/v1/limits/{limit}/set", "Sets a limit's rate for all who share it").field(rate),
        Operation::act("/api/v1/limits/{limit}/reset", "Leaves a limit's rate to whoever asks again"),
    ];
    Routes::new()
        .route("/limits", asking_page(frame, deployment, list_page))
        .route("/limits/act", action(frame, deployment, do_it))
        .api(all, facts(frame, deployment, async |deployment, _| found(&deployment).await))
        .merge(orders(frame, deployment, acts, do_it))
}

async fn found(deployment: &Deployment) -> Result<Vec<LimitInfo>, WebError> {
    Ok(limits::list(&deployment.client, &deployment.known).await?)
}

async fn list_page(deployment: Arc<Deployment>, _request: Arc<PageRequest>) -> Result<Page, WebError> {
    let (limits, trouble) = match found(&deployment).await {
        Ok(limits) => (limits, None),
        Err(error) => (Vec::new(), Some(error.message)),
    };
    Ok(Page::new("limits.html", "Limits", context! { limits => Serde(limits), trouble }))
}

async fn do_it(deployment: Arc<Deployment>, asked: Asked, mut noted: Action) -> (Action, Result<String, WebError>) {
    let words = ["limit", "rate"].into_iter().filter_map(|name| asked.form.get(name));
    noted.to = words.collect::<Vec<_>>().join(" ");
    let done = async {
        let limit = asked.text("limit")?;
        let wanted = match asked.what() {
            "set" => SetLimit::new(&limit, rate(&asked.text("rate")?)?),
            "reset" => SetLimit::new(&limit, None),
            _ => return Err(asked.unknown()),
        };
        let set = limits::set(&deployment.client, &wanted).await?;
        Ok(match set.set {
            Some(rate) => format!("{limit} is {} for all who share it", limits::rate_text(rate)),
            None => format!("{limit}: the rate of whoever asks holds again"),
        })
    };
    (noted, done.await)
}
