//! `longshore top`: workers and queues in a table that renews itself; off a terminal once.
//!
//! `top/board.rs`: the lines; `top/columns.rs`: which columns fit; `top/screen.rs`: the terminal.

mod board;
mod columns;
mod screen;

use std::{
    io::{IsTerminal, Write},
    time::{Duration, SystemTime},
};

use clap::{Args, ValueEnum};
use longshore_core::ErrorKind;
use longshore_ops::{
    OpsError,
    overview::{Overview, OverviewReader},
    queues::{QueueAction, act},
};
use longshore_worker::Client;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use self::{
    board::{Board, Trouble},
    screen::{Key, KeyWords, TopScreen},
};
use crate::{
    exit::Exit,
    fault::Fault,
    keys::KeyPresses,
    progress::ColorMode,
    queue::{
        Absent, Place,
        show::{json_line, who},
    },
    signals::{Signals, hear},
    units,
};

/// Longest time that a pause may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// `longshore top`.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// Order of the rows: name, busy (what runs; what waits) or rate (what comes to its end)
    #[arg(long, value_name = "ORDER", default_value = "name", hide_possible_values = true)]
    pub sort: Order,
    /// Time between two rounds of questions; never less than a second
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = units::duration)]
    pub every: Duration,
}

/// Order of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// By name.
    #[default]
    Name,
    /// What runs, what waits: the most first.
    Busy,
    /// What comes to its end in a second: the most first.
    Rate,
}

impl Order {
    /// Returns its word.
    fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Busy => "busy",
            Self::Rate => "rate",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Name => Self::Busy,
            Self::Busy => Self::Rate,
            Self::Rate => Self::Name,
        }
    }
}

/// Shows workers and queues: on a terminal until `q` or Ctrl-C, elsewhere once.
///
/// # Errors
/// The broker's, where the first look finds that it refuses us; and those of `out`.
pub async fn run(args: &TopArgs, place: &Place, color: ColorMode, keys: bool, out: &mut dyn Write) -> Result<Exit, Fault> {
    if place.json || !std::io::stdout().is_terminal() {
        return once(args.sort, place, out).await;
    }
    let (tell, told) = watch::channel(Seen::default());
    let looker = tokio::spawn(look_on(place.client.clone(), place.absent.clone(), args.every, tell));
    let shown = show(args.sort, color.on_stdout(), keys, place, told).await?;
    match shown {
        Some(exit) => {
            looker.abort();
            Ok(exit)
        }
        // The looker has ended by itself: it says why.
        None => match looker.await {
            Ok(Err(fault)) => Err(fault),
            Ok(Ok(())) => Ok(Exit::Done),
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Ok(Exit::Done),
            },
        },
    }
}

/// Writes one table, or one document.
async fn once(order: Order, place: &Place, out: &mut dyn Write) -> Result<Exit, Fault> {
    let mut reader = OverviewReader::new(place.client.clone());
    // One look knows how things stand, the second what comes and goes.
    reader.look().await?;
    let mut overview = reader.look().await?;
    overview.broker = place.broker_url();
    if place.json {
        json_line(out, &overview)?;
        return Ok(Exit::Done);
    }
    for line in Board::of(overview, order).plain() {
        writeln!(out, "{line}")?;
    }
    Ok(Exit::Done)
}

/// Views that the looker has seen.
#[derive(Clone, Default)]
struct Seen {
    /// Connections to a broker whose file was not there at first.
    client: Option<Client>,
    overview: Option<(Overview, SystemTime)>,
    trouble: Option<(String, Instant)>,
}

/// Looks on, and tells what it sees, until nobody wants to know.
async fn look_on(client: Client, mut absent: Absent, every: Duration, tell: watch::Sender<Seen>) -> Result<(), Fault> {
    let mut reader = OverviewReader::new(client);
    let mut seen_at = Instant::now();
    loop {
        let next = Instant::now() + every;
        if let Some(client) = absent.connect()? {
            reader = OverviewReader::new(client.clone());
            tell.send_modify(|seen| seen.client = Some(client));
        }
        match reader.look().await {
            Ok(mut overview) => {
                if let Some(url) = &absent.broker {
                    overview.broker = url.clone();
                }
                seen_at = Instant::now();
                tell.send_modify(|seen| (seen.overview, seen.trouble) = (Some((overview, SystemTime::now())), None));
            }
            // It will not be different in a second: a wrong password, say.
            Err(OpsError::Broker(error)) if error.kind != ErrorKind::Transient && tell.borrow().overview.is_none() => {
                return Err(error.into());
            }
            Err(error) => tell.send_modify(|seen| seen.trouble = Some((error.to_string(), seen_at))),
        }
        if tell.is_closed() {
            return Ok(());
        }
        sleep_until(next).await;
    }
}

/// Shows what is seen until somebody ends it; `None` where nothing more is seen.
async fn show(order: Order, color: bool, keys: bool, place: &Place, mut told: watch::Receiver<Seen>) -> Result<Option<Exit>, Fault> {
    let mut signals = Signals::listen();
    let mut resized = signal(SignalKind::window_change()).ok();
    let mut stop = signal(SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw())).ok();
    let (press, mut pressed) = mpsc::unbounded_channel();
    let (note, mut noted) = mpsc::unbounded_channel::<String>();
    let mut words = KeyWords::default();
    let mut client = place.client.clone();
    let mut board = Board::of_nothing(place.broker_url(), order);
    let mut screen = TopScreen::open()?;
    let mut reading = if keys { KeyPresses::start(press.clone()) } else { None };
    loop {
        let (width, height) = screen::size();
        screen.draw(&board.lines(width, height, color, reading.is_some()))?;
        tokio::select! {
            signal = signals.next() => return Ok(Some(if signal == 2 { Exit::Done } else { Exit::of_signal(signal) })),
            changed = told.changed() => match changed {
                Ok(()) => {
                    let seen = told.borrow_and_update().clone();
                    client = seen.client.clone().unwrap_or(client);
                    board.see(seen);
                }
                Err(_) => return Ok(None),
            },
            Some(key) = pressed.recv() => match words.read(key) {
                Some(Key::Quit) => return Ok(Some(Exit::Done)),
                Some(Key::Up) => board.choose(-1),
                Some(Key::Down) => board.choose(1),
                Some(Key::Sort) => board.sort(),
                Some(Key::Pause) => match board.switch(who()) {
                    Ok(action) => drop(tokio::spawn(switch(client.clone(), action, note.clone()))),
                    Err(why) => board.note(why),
                },
                None => {}
            },
            Some(said) = noted.recv() => board.note(said),
            Some(()) = hear(&mut resized) => {}
            Some(()) = hear(&mut stop) => {
                // The shell finds its terminal as it was.
                let had_keys = reading.take().map(KeyPresses::close).is_some();
                drop(screen);
                longshore_sys::child::stop_self();
                screen = TopScreen::open()?;
                reading = if had_keys { KeyPresses::start(press.clone()) } else { None };
            }
            // For how long the broker has been away.
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Pauses a queue, or lets it go on.
async fn switch(client: Client, action: QueueAction, note: mpsc::UnboundedSender<String>) {
    let said = match timeout(PATIENCE, act(&client, &action)).await {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {PATIENCE:?}: it may have been done"),
    };
    let _ = note.send(said);
}

impl Board {
    fn see(&mut self, seen: Seen) {
        if let Some((overview, at)) = seen.overview {
            self.show(overview, at);
        }
        self.trouble(seen.trouble.map(|(why, since)| Trouble { why, since }));
    }
}
