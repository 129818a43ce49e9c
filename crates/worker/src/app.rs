//! The registry of tasks, and the settings that clients and workers share.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::task::Task;

/// Named tasks with the settings that their clients and workers share.
#[derive(Clone)]
pub struct App {
    pub(crate) tasks: HashMap<Arc<str>, Arc<Task>>,
    pub(crate) settings: Settings,
}

/// What clients and workers must agree on. The defaults are Celery's.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The broker's URL.
    pub broker: String,
    /// The result backend's URL; the broker's where absent.
    pub results: Option<String>,
    /// The queue of a call that names none: `celery`.
    pub default_queue: String,
    /// The queue of tasks by name; `mail.*` matches what begins so. The first that matches counts.
    pub routes: Vec<(String, String)>,
    /// How long results are kept; for ever, where absent. One day.
    pub result_expires: Option<Duration>,
    /// Whether results carry the task's name, arguments, worker and queue.
    pub result_extended: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            broker: "sqlite:longshore.db".to_owned(),
            results: None,
            default_queue: "celery".to_owned(),
            routes: Vec::new(),
            result_expires: Some(Duration::from_secs(86_400)),
            result_extended: false,
        }
    }
}

impl App {
    /// The task of this name.
    pub fn task_named(&self, name: &str) -> Option<&Arc<Task>> {
        self.tasks.get(name)
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}
