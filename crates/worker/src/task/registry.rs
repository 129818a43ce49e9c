//! The tasks of an app, with the settings that hold for them.

use std::{collections::HashMap, sync::Arc};

use super::Task;
use crate::{environment::Environment, settings::Settings};

/// The tasks of an app by their names, with the settings that hold for them. Every attempt knows
/// it: that is how `celery.map` finds the task that it maps.
#[derive(Clone)]
pub struct TaskRegistry {
    pub(crate) tasks: HashMap<Arc<str>, Arc<Task>>,
    pub(crate) settings: Settings,
    pub(crate) environment: Environment,
}

impl TaskRegistry {
    /// Returns the task of this name.
    pub fn task_named(&self, name: &str) -> Option<&Arc<Task>> {
        self.tasks.get(name)
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}
