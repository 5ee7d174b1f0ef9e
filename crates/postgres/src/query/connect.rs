//! Opening a connection, secured as far as it is to be.

use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode as Negotiation;
use tokio_postgres::{Client, Config, NoTls};

use super::{Target, classify};
use crate::Error;
use crate::tls::{Connector, SslMode, Tls};

/// Connects, in the ways that libpq tries for the mode, one after the other.
pub(super) async fn open(
    mut config: Config,
    target: &Target,
) -> Result<(Client, JoinHandle<()>), Error> {
    let ways: &[Negotiation] = match target.tls.mode {
        _ if target.host.starts_with('/') => &[Negotiation::Disable],
        SslMode::Disable => &[Negotiation::Disable],
        SslMode::Allow => &[Negotiation::Disable, Negotiation::Require],
        SslMode::Prefer => &[Negotiation::Prefer, Negotiation::Disable],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Negotiation::Require],
    };
    let mut last = None;
    for way in ways {
        config.ssl_mode(*way);
        match connect_once(&config, *way, &target.tls).await {
            Err(error) if may_differ(&error) => last = Some(error),
            outcome => return outcome,
        }
    }
    Err(last.unwrap_or(Error::Malformed {
        what: "how to connect",
        text: String::new(),
    }))
}

async fn connect_once(
    config: &Config,
    way: Negotiation,
    tls: &Tls,
) -> Result<(Client, JoinHandle<()>), Error> {
    let failed = |error| classify("connect", &error);
    // The end of a connection shows in the next query.
    if way == Negotiation::Disable {
        let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
        let task = tokio::spawn(async move { drop(connection.await) });
        return Ok((client, task));
    }
    let connector = Connector::new(tls)?;
    let (client, connection) = config.connect(connector).await.map_err(failed)?;
    let task = tokio::spawn(async move { drop(connection.await) });
    Ok((client, task))
}

/// Whether another way to connect may end otherwise: the server does not do this one, or its access
/// rules do not let it in.
fn may_differ(error: &Error) -> bool {
    match error {
        Error::Query { answered, .. } => !answered,
        Error::Refused(_) => true,
        _ => false,
    }
}
