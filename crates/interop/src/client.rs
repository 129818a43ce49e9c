//! A client that is told by lines of JSON what to send, and answers with what came back: a line for
//! each, in the order in which they end.
//!
//! In: `{"n": 1, "send": {a signature as Celery serializes it}, "wait": 5.0}`, or `"get":
//! "<id>"` in place of `send`. Out: `{"n": 1, "id": "…", "result": …}`, or `"error": {"type",
//! "module", "args", "state"}`, or `"trouble": "…"`.

use std::{process::ExitCode, time::Duration};

use longshore::{
    Client, ClientError, Signature, Value,
    celery::{Map, WireSignature},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin, stdout},
    sync::mpsc,
};

use crate::tasks;

/// Sends to this broker until stdin ends.
pub(crate) fn run(broker: &str) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let sent = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        let client = runtime.block_on(async { Client::of(&tasks::app().broker(broker)) }).map_err(|error| error.to_string())?;
        runtime.block_on(listen(client));
        Ok(())
    });
    match sent {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("labapp: {error}");
            ExitCode::from(6)
        }
    }
}

async fn listen(client: Client) {
    let (say, mut said) = mpsc::unbounded_channel::<Value>();
    let writer = tokio::spawn(async move {
        let mut out = stdout();
        while let Some(line) = said.recv().await {
            if out.write_all(format!("{line}\n").as_bytes()).await.is_err() || out.flush().await.is_err() {
                return;
            }
        }
    });
    let mut lines = BufReader::new(stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let (client, say) = (client.clone(), say.clone());
        tokio::spawn(async move {
            let request = Value::parse(line.as_bytes(), 500).unwrap_or_default();
            let mut answer = match serve(&client, &request).await {
                Ok(answer) => answer,
                Err(trouble) => Map(vec![("trouble".to_owned(), trouble.into())]),
            };
            answer.set("n", request.get("n").cloned().unwrap_or_default());
            let _ = say.send(Value::Map(answer));
        });
    }
    drop(say);
    let _ = writer.await;
}

async fn serve(client: &Client, request: &Value) -> Result<Map, String> {
    let answer = if let Some(id) = request.get("get").and_then(Value::as_str) {
        client.result(id)
    } else {
        let signature = request.get("send").cloned().ok_or("neither send nor get")?;
        let wire = WireSignature::from_value(signature).map_err(|error| error.to_string())?;
        client.send::<Value>(Signature::from(wire)).await.map_err(|error| error.to_string())?
    };
    let mut said = Map(vec![("id".to_owned(), answer.id().into())]);
    let Some(wait) = request.get("wait").and_then(Value::as_f64) else { return Ok(said) };
    match answer.get_within(Duration::from_secs_f64(wait)).await {
        Ok(result) => said.set("result", result),
        Err(ClientError::Remote(remote)) => {
            let exception = &remote.exception;
            let error = [
                ("type", exception.exc_type.as_str().into()),
                ("module", exception.exc_module.as_str().into()),
                ("args", exception.exc_message.clone().into()),
                ("state", remote.state.as_str().into()),
            ];
            said.set("error", Value::Map(Map(error.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())));
        }
        Err(error) => said.set("trouble", error.to_string()),
    }
    Ok(said)
}
