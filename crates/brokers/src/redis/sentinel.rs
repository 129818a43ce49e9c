//! The server behind sentinels: they are asked at every connection, because it may have moved.

use super::{
    connection::Connection,
    fail::Fail,
    resp::{Pack, Reply},
    url::{Config, ServerPlace},
};

/// Asks one sentinel after the other, connects to the server that they name, and makes sure that it
/// is a master.
pub(super) async fn open(config: &Config, name: &str) -> Result<Connection, Fail> {
    let mut last = String::from("no sentinel is named");
    for place in &config.places {
        match ask(config, place, name).await {
            Ok(master) => {
                let mut connection = Connection::open_at(config, &master).await?;
                let lost = |error: std::io::Error| Fail::Unable(format!("redis at {master} ended the connection: {error}"));
                let role = connection.call(&Pack::of(&[b"ROLE"])).await.map_err(lost)?.remove(0).into_list();
                if role.first().and_then(Reply::bytes) == Some(b"master") {
                    return Ok(connection);
                }
                last = format!("redis at {master}, which sentinel {place} names, is no master yet");
            }
            Err(text) => last = text,
        }
    }
    Err(Fail::Unable(last))
}

async fn ask(config: &Config, place: &ServerPlace, name: &str) -> Result<ServerPlace, String> {
    let lost = |error: std::io::Error| format!("sentinel {place}: {error}");
    let mut sentinel = Connection::raw(config, place).await.map_err(|fail| fail.text().to_owned())?;
    let mut pack = Pack::default();
    if let Some(password) = &config.sentinel_password {
        let user = config.sentinel_user.as_deref().unwrap_or("default");
        pack.add(&[b"AUTH", user.as_bytes(), password.as_bytes()]);
    }
    pack.add(&[b"SENTINEL", b"get-master-addr-by-name", name.as_bytes()]);
    let replies = sentinel.call(&pack).await.map_err(lost)?;
    if let Some(error) = replies.iter().find_map(Reply::error) {
        return Err(format!("sentinel {place}: {error}"));
    }
    let reply = replies.into_iter().next_back().unwrap_or(Reply::Nil);
    match reply.into_list().as_slice() {
        [host, port] => {
            let port = port.int().and_then(|port| u16::try_from(port).ok()).ok_or_else(|| format!("sentinel {place} names no port"))?;
            Ok(ServerPlace::Tcp { host: host.text().unwrap_or_default(), port })
        }
        _ => Err(format!("sentinel {place} knows no master `{name}`")),
    }
}
