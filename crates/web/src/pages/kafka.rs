//! Groups of Kafka: how far each is behind, by topic and partition, and who reads.

use std::sync::Arc;

use minijinja::context;

use crate::{
    api::Routes,
    error::WebError,
    frame::{Frame, Page, PageRequest, page},
};

/// Returns the page that says how to see groups: none are looked at here.
pub(crate) fn without(frame: &Arc<Frame>) -> Routes {
    Routes::new().route("/kafka", page(frame, &Arc::new(()), none))
}

async fn none(_state: Arc<()>, _request: Arc<PageRequest>) -> Result<Page, WebError> {
    Ok(Page::new("kafka.html", "Kafka", context! { is_built => cfg!(feature = "kafka"), kafka => None::<String> }))
}

#[cfg(feature = "kafka")]
pub(crate) use asked::routes;

#[cfg(feature = "kafka")]
mod asked {
    use std::sync::Arc;

    use axum::{
        Json,
        extract::{Path, State},
        response::{IntoResponse, Response},
        routing::get,
    };
    use minijinja::{context, value::Serde};

    use crate::{
        api::{Operation, Routes},
        error::WebError,
        frame::{Frame, Page, PageRequest, asking_page, in_query},
        kafka::groups::KafkaReader,
    };

    /// Returns the pages, and the same as JSON.
    pub(crate) fn routes(frame: &Arc<Frame>, reader: &Arc<KafkaReader>) -> Routes {
        let all = Operation::get("/api/v1/kafka/groups", "Groups of Kafka, and how far each is behind").answers("KafkaGroups").asks();
        let one = Operation::get("/api/v1/kafka/groups/{group}", "One group: its members, and its partitions")
            .answers("KafkaGroup")
            .asks()
            .refuses(&[404]);
        Routes::new()
            .route("/kafka", asking_page(frame, reader, list_page))
            .route("/kafka/{group}", asking_page(frame, reader, group_page))
            .api(all, get(list).with_state(reader.clone()))
            .api(one, get(group).with_state(reader.clone()))
    }

    async fn list_page(reader: Arc<KafkaReader>, _request: Arc<PageRequest>) -> Result<Page, WebError> {
        let (groups, trouble) = match reader.groups().await {
            Ok(seen) => (seen.groups.clone(), None),
            Err(error) => (Vec::new(), Some(error.message)),
        };
        let paths: Vec<String> = groups.iter().map(|group| format!("/kafka/{}", in_query(&group.group))).collect();
        let context = context! { is_built => true, kafka => reader.kafka(), groups => Serde(groups), paths, trouble };
        Ok(Page::new("kafka.html", "Kafka", context))
    }

    async fn group_page(reader: Arc<KafkaReader>, request: Arc<PageRequest>) -> Result<Page, WebError> {
        let name = request.param("group");
        let (group, trouble) = match reader.group(name).await {
            Ok(seen) => (Some(seen), None),
            Err(error) if error.status == 404 => return Err(error),
            Err(error) => (None, Some(error.message)),
        };
        let context = context! { name, kafka => reader.kafka(), group => Serde(group.as_deref()), trouble };
        Ok(Page::new("kafka_group.html", format!("Group {name}"), context))
    }

    async fn list(State(reader): State<Arc<KafkaReader>>) -> Response {
        match reader.groups().await {
            Ok(groups) => Json(&*groups).into_response(),
            Err(error) => error.json(),
        }
    }

    async fn group(State(reader): State<Arc<KafkaReader>>, Path(group): Path<String>) -> Response {
        match reader.group(&group).await {
            Ok(group) => Json(&*group).into_response(),
            Err(error) => error.json(),
        }
    }
}
