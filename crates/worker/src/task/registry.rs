//! The tasks of an app, with the settings that hold for them.

use std::{collections::HashMap, sync::Arc};

use longshore_celery::canvas::ErrbackStyle;

use super::{Acks, Task, TaskPolicy};
use crate::{environment::Environment, schedule::Schedule, settings::Settings};

/// The tasks of an app by their names, with the settings that hold for them. Every attempt knows
/// it: that is how `celery.map` finds the task that it maps.
#[derive(Clone)]
pub struct TaskRegistry {
    pub(crate) tasks: HashMap<Arc<str>, Arc<Task>>,
    /// Functions that remote control calls.
    pub(crate) commands: HashMap<Arc<str>, Arc<Task>>,
    /// Of tasks that do not say it themselves.
    pub(crate) acks: Acks,
    pub(crate) settings: Settings,
    pub(crate) environment: Environment,
    /// Tasks that are sent at their times.
    pub(crate) schedules: Vec<Schedule>,
    /// True where those of a configuration that was read are among them.
    pub(crate) is_configured: bool,
}

impl TaskRegistry {
    /// Returns the task of this name.
    pub fn task_named(&self, name: &str) -> Option<&Arc<Task>> {
        self.tasks.get(name)
    }

    /// Returns the command of remote control of this name, of those that the app has added.
    pub fn command_named(&self, name: &str) -> Option<&Arc<Task>> {
        self.commands.get(name)
    }

    /// Returns when messages of a task with this policy are acknowledged.
    pub fn acks_of(&self, policy: &TaskPolicy) -> Acks {
        policy.acks.unwrap_or(self.acks)
    }

    /// Returns how workers tell an errback that a task has failed.
    pub(crate) fn told(&self, errback: &str) -> ErrbackStyle {
        match self.task_named(errback) {
            Some(task) if task.policy.errback => ErrbackStyle::Error,
            _ => self.settings.told(errback),
        }
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}
