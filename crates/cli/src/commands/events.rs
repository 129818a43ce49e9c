//! `longshore events`: what workers tell, as it happens.

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use clap::Args;
use longshore_celery::{
    Value,
    control::Request,
    events::{self, Event, EventKind},
};
use longshore_worker::{Client, remote::tell};

use crate::{
    exit::Exit,
    fault::Fault,
    queue::{
        Place,
        show::{clock, cut, plain},
    },
};

/// The longest message that is read.
const LONGEST: usize = 16 << 20;
/// Time between two looks for a file that is not there.
const LOOK: Duration = Duration::from_millis(250);

/// `longshore events`.
#[derive(Args, Clone, Debug)]
pub struct EventsArgs {
    /// Only events of these kinds: task-failed, worker-online, or their beginnings: task, worker
    #[arg(value_name = "KIND")]
    pub kinds: Vec<String>,
    /// Heartbeats too
    #[arg(short = 'a', long)]
    pub all: bool,
    /// First have all workers send events of tasks
    #[arg(short = 'E', long)]
    pub enable: bool,
    /// End after so many
    #[arg(short = 'n', long, value_name = "N")]
    pub count: Option<u64>,
}

/// Writes events until Ctrl-C.
///
/// # Errors
/// The broker's, and those of `out`.
pub async fn run(args: &EventsArgs, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    let mut client = place.client.clone();
    if place.absent.broker.is_some() {
        tokio::select! {
            made = made(place) => client = made?,
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Done),
        }
    }
    let mut heard = client.connected().bus()?.subscribe(events::EXCHANGE, "#").await?;
    if args.enable {
        tell(client.connected(), Request::new("enable_events")).await?;
    }
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let raw = tokio::select! {
            message = heard.messages.recv() => match message {
                Some((_, raw)) => raw,
                None => return Err(Fault::new(Exit::Unreachable, "the connection has ended on which events came".to_owned())),
            },
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Done),
        };
        for event in events::decode(&raw, LONGEST).unwrap_or_default().into_iter().filter(|event| args.wants(event)) {
            if place.json {
                out.write_all(&event.to_value().to_json())?;
                writeln!(out)?;
            } else {
                writeln!(out, "{}", line(&event))?;
            }
            left -= 1;
            if left == 0 {
                break;
            }
        }
        out.flush()?;
    }
    Ok(Exit::Done)
}

/// Waits until somebody has made the broker's file. Returns connections to it.
async fn made(place: &Place) -> Result<Client, Fault> {
    let mut absent = place.absent.clone();
    loop {
        if let Some(client) = absent.connect()? {
            return Ok(client);
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl EventsArgs {
    fn wants(&self, event: &Event) -> bool {
        let kind = event.what.kind();
        if self.kinds.is_empty() {
            return self.all || kind != "worker-heartbeat";
        }
        self.kinds.iter().any(|wanted| wanted == kind || kind.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.starts_with('-')))
    }
}

/// `12:01:07 w1@lab task-succeeded 1f0c… 6 in 0.4s`
fn line(event: &Event) -> String {
    let at = Duration::try_from_secs_f64(event.timestamp).ok().and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
    let id = |uuid: &str| plain(uuid);
    let text = |text: &str| cut(&plain(text), 200);
    let more = match &event.what {
        EventKind::TaskSent { task, .. } | EventKind::TaskReceived(task) => {
            let args = task.args.as_deref().unwrap_or_default();
            let kwargs = task.kwargs.as_deref().filter(|kwargs| *kwargs != "{}").map(|kwargs| format!(" {kwargs}")).unwrap_or_default();
            format!("{}[{}] {}", plain(&task.name), id(&task.uuid), text(&format!("{args}{kwargs}")))
        }
        EventKind::TaskStarted { uuid } => id(uuid),
        EventKind::TaskSucceeded { uuid, result, runtime } => format!("{} {} in {runtime:.3}s", id(uuid), text(result)),
        EventKind::TaskFailed { uuid, exception, .. } | EventKind::TaskRetried { uuid, exception, .. } => {
            format!("{} {}", id(uuid), text(exception))
        }
        EventKind::TaskRevoked { uuid, terminated, expired, .. } => {
            format!("{}{}{}", id(uuid), if *terminated { " terminated" } else { "" }, if *expired { " expired" } else { "" })
        }
        EventKind::TaskRejected { uuid, requeue } => format!("{}{}", id(uuid), if *requeue { " back to its queue" } else { "" }),
        EventKind::WorkerOnline(beat) | EventKind::WorkerHeartbeat(beat) | EventKind::WorkerOffline(beat) => {
            let count = |count: Option<i64>, what: &str| count.map(|count| format!(" {count} {what}")).unwrap_or_default();
            format!(
                "{} {}{}{}",
                plain(&beat.sw_ident),
                plain(&beat.sw_ver),
                count(beat.active, "active"),
                count(beat.processed, "processed")
            )
        }
        EventKind::Other { fields, .. } => text(&String::from_utf8_lossy(&Value::Map(fields.clone()).to_json())),
    };
    format!("{} {} {} {more}", at.map(clock).unwrap_or_default(), plain(&event.hostname), event.what.kind())
}
