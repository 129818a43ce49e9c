//! What programs ask over HTTP: each operation with its description, in one table from which both
//! the router and the OpenAPI document come.
//!
//! - `api/operation.rs`: one operation, with what it takes and answers
//! - `api/document.rs`: the document, `/api/v1/openapi.json`
//! - `api/order.rs`: an action of a page, asked for as JSON
//! - `api/schemas.json`: what answers look like

mod document;
mod operation;
mod order;

use std::sync::Arc;

use axum::{
    Json, Router,
    http::{StatusCode, Uri},
    response::IntoResponse,
    routing::{MethodRouter, get},
};

pub(crate) use self::{
    operation::{Field, Operation},
    order::{Done, orders},
};
use crate::{error::WebError, guard, options::WebOptions};

/// Path of the document.
const DOCUMENT: &str = "/api/v1/openapi.json";

/// Routes of a site; those for programs cannot be added without a description.
#[derive(Default)]
pub(crate) struct Routes {
    router: Router,
    operations: Vec<Operation>,
}

impl Routes {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a page, or what a form of a page is sent to.
    pub(crate) fn route(mut self, path: &'static str, handler: MethodRouter) -> Self {
        debug_assert!(!path.starts_with("/api/"), "{path} is for programs: add it by `api`, with its description");
        self.router = self.router.route(path, handler);
        self
    }

    /// Adds an operation for programs.
    pub(crate) fn api(mut self, operation: Operation, handler: MethodRouter) -> Self {
        self.router = self.router.route(operation.path(), handler);
        self.operations.push(operation);
        self
    }

    /// Adds others.
    pub(crate) fn merge(mut self, others: Self) -> Self {
        self.router = self.router.merge(others.router);
        self.operations.extend(others.operations);
        self
    }

    /// Returns the router, with the document of all operations.
    pub(crate) fn into_router(self, options: &WebOptions) -> Router {
        let described = Operation::get(DOCUMENT, "This document").answers("Anything");
        let mut operations = self.operations;
        operations.push(described);
        let document = Arc::new(document::of(&operations, options));
        let serve = get(move || {
            let document = document.clone();
            async move { Json(&*document).into_response() }
        });
        let refused = |uri: Uri| async move {
            guard::refuse(&WebError::new(StatusCode::METHOD_NOT_ALLOWED, "this path is there for another method"), uri.path())
        };
        self.router.route(DOCUMENT, serve).method_not_allowed_fallback(refused)
    }
}
