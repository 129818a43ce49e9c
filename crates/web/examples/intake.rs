//! Document 000's consumer as a service: a leaky bucket in front of a queue, over HTTP. It is
//! offered three times its leak; what fits is 202 and in the broker, the rest is 429 with a time to
//! come again.
//!
//! `cargo run --release -p longshore-web --example intake [-- --rate 200 --burst 50 --seconds 5]`
//! `… --example intake -- --serve 127.0.0.1:7070 --broker redis://127.0.0.1/0` waits for others
//! (wrk, oha), and counts until it is interrupted.

#[path = "intake/caller.rs"]
mod caller;

use std::{
    error::Error,
    process::ExitCode,
    time::{Duration, Instant},
};

use caller::Caller;
use longshore_core::Rate;
use longshore_web::{Intake, IntakeOptions, Site, WebOptions, WebServer};
use longshore_worker::{Client, Settings};

const HELP: &str = "\
  --rate X         tasks that leak out of the bucket each second (100)
  --burst N        tasks that it holds (20)
  --seconds X      time for which it is offered three times its leak (3)
  --broker URL     where tasks go (memory://intake)
  --serve ADDRESS  waits for others instead, until it is interrupted
  --help           this text";

/// Number of connections that offer tasks.
const CALLERS: u32 = 8;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let (mut rate, mut burst, mut seconds) = (100.0, 20, 3.0);
    let (mut broker, mut serve) = ("memory://intake".to_owned(), None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value; see --help"));
        match word.as_str() {
            "--rate" => rate = value()?.parse()?,
            "--burst" => burst = value()?.parse()?,
            "--seconds" => seconds = value()?.parse()?,
            "--broker" => broker = value()?,
            "--serve" => serve = Some(value()?),
            "--help" => {
                println!("{HELP}");
                return Ok(ExitCode::SUCCESS);
            }
            other => return Err(format!("there is no {other}; see --help").into()),
        }
    }
    let mut options = IntakeOptions::default();
    options.rate = Some(Rate::per_second(rate).burst(burst));
    let client = Client::connect(&Settings::new(broker))?;
    let intake = Intake::new(client.clone(), options);
    let web = WebOptions::default();
    let server = WebServer::bind(serve.as_deref().unwrap_or("127.0.0.1:0"), &web).await?;
    let address = server.address().to_string();
    println!("tasks are taken at http://{address}/api/v1/tasks/NAME: {rate} a second, {burst} at once");
    let serving = server.serve(Site::of_intake(web, &intake));
    let (sent, refused) = match serve {
        Some(_) => {
            tokio::signal::ctrl_c().await?;
            (None, None)
        }
        None => {
            let (sent, refused) = offer(&address, 3.0 * rate, seconds).await?;
            (Some(sent), Some(refused))
        }
    };
    serving.stop().await;
    let counts = intake.counts();
    let time = counts.first.zip(counts.last).map_or(Duration::ZERO, |(first, last)| last - first);
    // Who offers may be held up for so long that the bucket is empty: then nothing leaks.
    let expected = f64::from(burst) + rate * (time - counts.idle).as_secs_f64();
    println!("{} sent, {} told to come again, in {:.3} s on the server's clock", counts.sent, counts.refused, time.as_secs_f64());
    println!("capacity + leak × time = {expected:.1} (the bucket was empty for {:.3} s of it)", counts.idle.as_secs_f64());
    if let (Some(sent), Some(refused)) = (sent, refused) {
        let waiting = client.broker().queues(&["celery".into()]).await?.first().map_or(0, |queue| queue.waiting);
        println!("the callers counted {sent} × 202 and {refused} × 429; {waiting} wait in the broker");
        let is_right = (counts.sent as f64 - expected).abs() <= 1.0 && counts.sent == sent && counts.refused == refused && waiting >= sent;
        if !is_right {
            println!("that is not as it should be");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Offers so many tasks a second; how many were sent, and how many told to come again.
async fn offer(address: &str, rate: f64, seconds: f64) -> Result<(u64, u64), Box<dyn Error + Send + Sync>> {
    let begun = Instant::now();
    let every = Duration::from_secs_f64(f64::from(CALLERS) / rate);
    let callers = (0..CALLERS).map(|number| {
        let address = address.to_owned();
        tokio::spawn(async move {
            let mut caller = Caller::connect(&address, "/api/v1/tasks/shop.price", r#"{"args":[1]}"#).await?;
            let (mut sent, mut refused) = (0_u64, 0_u64);
            let mut at = begun + every.mul_f64(f64::from(number) / f64::from(CALLERS));
            while begun.elapsed().as_secs_f64() < seconds {
                tokio::time::sleep_until(at.into()).await;
                at += every;
                match caller.send().await? {
                    (202, None) => sent += 1,
                    (429, Some(1..)) => refused += 1,
                    other => return Err(format!("an answer that was not expected: {other:?}").into()),
                }
            }
            Ok::<_, Box<dyn Error + Send + Sync>>((sent, refused))
        })
    });
    let mut all = (0, 0);
    for caller in callers.collect::<Vec<_>>() {
        let (sent, refused) = caller.await??;
        all = (all.0 + sent, all.1 + refused);
    }
    Ok(all)
}
