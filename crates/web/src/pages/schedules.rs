//! Schedules: when they are due; pause, resume, run now, remove.

use std::sync::Arc;

use longshore_ops::schedules::{self, ScheduleAction, SchedulesInfo, SchedulesRequest};
use minijinja::{context, value::Serde};

use crate::{
    api::{Done, Operation, Routes},
    audit::Action,
    deployment::Deployment,
    error::WebError,
    frame::{Frame, Page, PageRequest, asking_page},
    pages::{Asked, action, facts, orders},
};

/// Returns the page, its action, and the facts as JSON.
pub(crate) fn routes(frame: &Arc<Frame>, deployment: &Arc<Deployment>) -> Routes {
    let all = Operation::get("/api/v1/schedules", "Schedules, and when they are due").answers("Schedules").asks();
    let acts = [
        Operation::act("/api/v1/schedules/{name}/pause", "Pauses a schedule: nothing of it is sent"),
        Operation::act("/api/v1/schedules/{name}/resume", "Lets a schedule be sent again"),
        Operation::act("/api/v1/schedules/{name}/run", "Sends a schedule's task now"),
        Operation::act("/api/v1/schedules/{name}/remove", "Forgets a schedule"),
    ];
    let acts = acts.map(|operation| operation.refuses(&[404]));
    Routes::new()
        .route("/schedules", asking_page(frame, deployment, list_page))
        .route("/schedules/act", action(frame, deployment, do_it))
        .api(all, facts(frame, deployment, async |deployment, _| found(&deployment).await))
        .merge(orders(frame, deployment, acts, do_it))
}

async fn found(deployment: &Deployment) -> Result<SchedulesInfo, WebError> {
    Ok(schedules::list(&deployment.client, &SchedulesRequest::default()).await?)
}

async fn list_page(deployment: Arc<Deployment>, _request: Arc<PageRequest>) -> Result<Page, WebError> {
    let (info, trouble) = match found(&deployment).await {
        Ok(info) => (Some(info), None),
        Err(error) => (None, Some(error.message)),
    };
    Ok(Page::new("schedules.html", "Schedules", context! { info => info.map(Serde), trouble }))
}

async fn do_it(deployment: Arc<Deployment>, asked: Asked, mut noted: Action) -> (Action, Result<Done, WebError>) {
    noted.to = asked.form.get("name").unwrap_or_default().to_owned();
    let done = async {
        let name = asked.text("name")?;
        let wanted = match asked.what() {
            "pause" => ScheduleAction::Pause { name, by: asked.by() },
            "resume" => ScheduleAction::Resume { name },
            "run" => ScheduleAction::Run { name },
            "remove" => ScheduleAction::Remove { name },
            _ => return Err(asked.unknown()),
        };
        let done = schedules::act(&deployment.client, &wanted).await?;
        let id = done.id.as_ref().map(|id| format!(" as {id}")).unwrap_or_default();
        Ok(Done { said: format!("{}: {}{id}", done.name, done.done), ids: done.id.into_iter().collect() })
    };
    (noted, done.await)
}
