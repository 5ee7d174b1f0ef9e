//! A client that writes all the time, as an application would, and tells how long it could not.

use std::time::Duration;

use stolon_core::time::Instant;
use stolon_daemons::runtime::clock;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::{Config, NoTls};

/// Time between two writes.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a connection may take to be made; the proxy holds it while there is no primary.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// From here on it is told at once that writes do not come through, before it is known for how long.
const LONG: Duration = Duration::from_secs(1);
/// A gap shorter than this in a session that goes on is not told of: this machine may have been busy.
const SHORT: Duration = Duration::from_millis(300);
/// A commit with a record in the WAL, which a synchronous one waits for, and with no trace in any
/// table (<https://www.postgresql.org/docs/current/functions-admin.html>).
const WRITE: &str = "select pg_logical_emit_message(true, 'stolonctl dev', '')";

/// What the client met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Met {
    /// The first write that came through.
    First,
    /// Writes have not come through for a while.
    Lost {
        /// Why, in the words of the last error.
        why: String,
    },
    /// They do again.
    Back {
        /// The time between the last write before and the first after.
        gap: Duration,
    },
}

/// The client; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Client {
    task: JoinHandle<()>,
    met: mpsc::Receiver<Met>,
}

impl Client {
    /// Begins to write.
    pub(super) fn start(config: Config) -> Self {
        let (events, met) = mpsc::channel(64);
        let task = tokio::spawn(write(config, Account::new(events)));
        Self { task, met }
    }

    /// What it met since it was last asked.
    pub(super) fn news(&mut self) -> Vec<Met> {
        std::iter::from_fn(|| self.met.try_recv().ok()).collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn write(config: Config, mut account: Account) {
    loop {
        if let Err(why) = session(&config, &mut account).await {
            account.broke(&why);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Writes over one connection until it breaks.
async fn session(config: &Config, account: &mut Account) -> Result<(), String> {
    let connect = tokio::time::timeout(CONNECT_LIMIT, config.connect(NoTls));
    tokio::pin!(connect);
    let connected = loop {
        tokio::select! {
            connected = &mut connect => break connected,
            () = tokio::time::sleep(PAUSE) => account.failed("the proxy holds it: no primary is open"),
        }
    };
    let (client, connection) = connected
        .map_err(|_| format!("no answer within {CONNECT_LIMIT:?}"))?
        .map_err(|error| explain(&error))?;
    tokio::pin!(connection);
    loop {
        let write = client.simple_query(WRITE);
        tokio::pin!(write);
        // It is waited for without end: whoever gives up leaves a backend behind that waits on.
        loop {
            tokio::select! {
                result = &mut write => {
                    result.map_err(|error| explain(&error))?;
                    break;
                }
                _ = &mut connection => return Err("the connection was closed".to_owned()),
                () = tokio::time::sleep(PAUSE) => account.failed("no answer to a write"),
            }
        }
        account.came_through();
        tokio::select! {
            _ = &mut connection => return Err("the connection was closed".to_owned()),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

fn explain(error: &tokio_postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        return without_number(error.message()).to_owned();
    }
    let cause = std::error::Error::source(error).and_then(|source| {
        let io = source.downcast_ref::<std::io::Error>()?;
        (io.kind() == std::io::ErrorKind::ConnectionRefused).then_some("the proxy does not listen")
    });
    cause.unwrap_or("the connection was closed").to_owned()
}

/// A message of the proxy without the operating system's part of it, "…: Connection refused (os
/// error 111)", which says nothing more.
fn without_number(message: &str) -> &str {
    match message.rsplit_once(": ") {
        Some((words, rest)) if rest.ends_with(')') && rest.contains("(os error ") => words,
        _ => message,
    }
}

/// When writes came through.
#[derive(Debug)]
struct Account {
    last: Option<Instant>,
    told: bool,
    /// Whether a session ended since.
    broken: bool,
    events: mpsc::Sender<Met>,
}

impl Account {
    const fn new(events: mpsc::Sender<Met>) -> Self {
        Self {
            last: None,
            told: false,
            broken: false,
            events,
        }
    }

    fn came_through(&mut self) {
        let met = match self.last.map(|last| clock::now().since(last)) {
            None => Some(Met::First),
            Some(gap) => (self.broken || gap > SHORT + PAUSE).then_some(Met::Back { gap }),
        };
        self.last = Some(clock::now());
        self.told = false;
        self.broken = false;
        self.tell(met);
    }

    fn broke(&mut self, why: &str) {
        self.broken = true;
        self.failed(why);
    }

    fn failed(&mut self, why: &str) {
        let now = clock::now();
        let is_long = self.last.is_some_and(|last| now.since(last) > LONG);
        if is_long && !self.told {
            self.told = true;
            self.tell(Some(Met::Lost {
                why: why.to_owned(),
            }));
        }
    }

    /// Nobody reads while the cluster stops: what does not fit is lost.
    fn tell(&self, met: Option<Met>) {
        if let Some(met) = met {
            let _ = self.events.try_send(met);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::without_number;

    #[test]
    fn numbers_of_the_operating_system_are_left_out() {
        for (message, expected) in [
            (
                "no primary is open: it cannot be reached: Connection refused (os error 111)",
                "no primary is open: it cannot be reached",
            ),
            (
                "no primary is open: the store is away",
                "no primary is open: the store is away",
            ),
            ("cannot execute (now)", "cannot execute (now)"),
        ] {
            assert_eq!(without_number(message), expected);
        }
    }
}
