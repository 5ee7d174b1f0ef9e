//! The clients of a soak: those that write and read as fast as they are answered, and those that
//! connect for each query, are idle, copy, cancel, and end in the middle of their first words.

use std::io::Cursor;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt as _, TryStreamExt as _, future};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Error, NoTls};

use super::tally::Tally;
use crate::e2e::harness::writer::Address;

/// The table of the writers; a row is written once, by one of them.
pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS soaked
    (writer int, row bigint, words text DEFAULT repeat('x', 40), PRIMARY KEY (writer, row))";

/// How many clients of each kind a proxy has.
pub(crate) const WRITERS: usize = 4;
const READERS: usize = 8;
const COME_AND_GO: usize = 4;
const IDLE: usize = 50;
/// Those of a proxy that have a session most of the time: these, and one that copies, one that cancels.
pub(crate) const CLIENTS: usize = WRITERS + READERS + COME_AND_GO + IDLE + 2;

/// Bound on a connection, held by the proxy or not, and on a statement.
const LIMIT: Duration = Duration::from_secs(30);
/// After an error, so that clients that are refused do not keep the machine from everything else.
const PAUSE: Duration = Duration::from_millis(50);

/// One client.
#[derive(Clone)]
struct Customer {
    address: Address,
    tally: Arc<Tally>,
}

/// Clients that run until they are dropped.
pub(crate) struct Load(Option<Runtime>);

impl Load {
    /// Sends them to the proxies.
    pub(crate) fn start(proxies: &[Address], tally: &Arc<Tally>) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        for (number, address) in proxies.iter().enumerate() {
            let customer = Customer {
                address: address.clone(),
                tally: tally.clone(),
            };
            for writer in number * WRITERS..(number + 1) * WRITERS {
                runtime.spawn(customer.clone().writes(writer));
            }
            for _ in 0..READERS {
                runtime.spawn(customer.clone().reads(number * WRITERS));
            }
            for _ in 0..COME_AND_GO {
                runtime.spawn(customer.clone().comes_and_goes());
            }
            for _ in 0..IDLE {
                runtime.spawn(customer.clone().idles());
            }
            runtime.spawn(customer.clone().copies());
            runtime.spawn(customer.clone().cancels());
            runtime.spawn(customer.clone().ends_early());
        }
        Self(Some(runtime))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}

/// A session, whose connection is a task that ends with it, or with the server.
struct Session {
    client: Client,
    connection: JoinHandle<()>,
}

impl Customer {
    async fn connect(&self) -> Session {
        let mut config = Config::new();
        config
            .host(&self.address.host)
            .port(self.address.port)
            .user(&self.address.user)
            .password(&self.address.password)
            .dbname("postgres");
        loop {
            let connected = tokio::time::timeout(LIMIT, config.connect(NoTls)).await;
            match connected {
                Ok(Ok((client, connection))) => {
                    self.tally.connections.fetch_add(1, Ordering::Relaxed);
                    let tally = self.tally.clone();
                    let connection = tokio::spawn(async move {
                        if let Err(error) = connection.await {
                            tally.fail("session", &kind(&error));
                        }
                    });
                    return Session { client, connection };
                }
                Ok(Err(error)) => self.tally.fail("connect", &kind(&error)),
                Err(_) => self.tally.fail("connect", "no answer"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Counts an error; whether there was none.
    fn counts<T>(&self, what: &str, answer: Result<Result<T, Error>, impl Sized>) -> Option<T> {
        match answer {
            Ok(Ok(answer)) => return Some(answer),
            // Why the session ended is counted where it ended.
            Ok(Err(error)) if error.is_closed() => {}
            Ok(Err(error)) => self.tally.fail(what, &kind(&error)),
            Err(_) => self.tally.fail(what, "no answer"),
        }
        None
    }

    /// Runs statements in one session after the other, until it fails to.
    async fn query(&self, session: &Session, what: &str, sql: &str) -> Option<()> {
        let answer = tokio::time::timeout(LIMIT, session.client.batch_execute(sql)).await;
        let done = self.counts(what, answer);
        if done.is_some() {
            self.tally.queries.fetch_add(1, Ordering::Relaxed);
        } else {
            tokio::time::sleep(PAUSE).await;
        }
        done
    }

    async fn writes(self, writer: usize) {
        let mut row = 0;
        loop {
            let session = self.connect().await;
            loop {
                row += 1;
                let sql = format!("INSERT INTO soaked VALUES ({writer}, {row})");
                if self.query(&session, "write", &sql).await.is_none() {
                    self.tally.lose_sight(writer, row);
                    break;
                }
                self.tally.acknowledge(writer, row);
            }
        }
    }

    async fn reads(self, writer: usize) {
        loop {
            let session = self.connect().await;
            let mut row = 1;
            let sql =
                |row| format!("SELECT words FROM soaked WHERE writer = {writer} AND row = {row}");
            while self.query(&session, "read", &sql(row)).await.is_some() {
                row = row % 1000 + 1;
            }
        }
    }

    async fn comes_and_goes(self) {
        for number in 0_u64.. {
            let session = self.connect().await;
            if number % 3 == 0 {
                // Without a word, in the middle of a statement.
                let sleeping = session.client.batch_execute("SELECT pg_sleep(1)");
                let begun = tokio::time::timeout(Duration::from_millis(20), sleeping).await;
                drop(begun);
                session.connection.abort();
            } else {
                // Counts by itself whether it was answered.
                self.query(&session, "read", "SELECT 1").await;
            }
            // A new session costs the server more than a hundred reads.
            tokio::time::sleep(PAUSE * 4).await;
        }
    }

    async fn idles(self) {
        loop {
            let session = self.connect().await;
            // Counts by itself why it ended.
            let ended = session.connection.await;
            drop((ended, session.client));
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn copies(self) {
        const OUT: &str =
            "COPY (SELECT g, md5(g::text) FROM generate_series(1, 50000) g) TO STDOUT";
        loop {
            let session = self.connect().await;
            let table = "CREATE TEMP TABLE copied (id int, words text)";
            if self.query(&session, "copy", table).await.is_none() {
                continue;
            }
            let copied = &self.tally.copied;
            loop {
                let turn = tokio::time::timeout(LIMIT, copy(&session.client, OUT, copied)).await;
                if self.counts("copy", turn).is_none() {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn cancels(self) {
        loop {
            let session = self.connect().await;
            let token = session.client.cancel_token();
            loop {
                let sleeping = session.client.batch_execute("SELECT pg_sleep(60)");
                let mut sleeping = pin!(tokio::time::timeout(LIMIT, sleeping));
                let slept = loop {
                    tokio::select! {
                        slept = &mut sleeping => break slept,
                        () = tokio::time::sleep(PAUSE * 4) => {}
                    }
                    // Again where it came before the statement.
                    let sent = tokio::time::timeout(LIMIT, token.cancel_query(NoTls)).await;
                    drop(sent);
                };
                match slept {
                    Ok(Err(error)) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
                        self.tally.cancelled.fetch_add(1, Ordering::Relaxed);
                    }
                    other => {
                        if self.counts("cancel", other).is_some() {
                            self.tally.fail("cancel", "slept to its end");
                        }
                        break;
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Nothing, half of the first words, a wish for TLS that is not pursued.
    async fn ends_early(self) {
        const WORDS: [&[u8]; 3] = [&[], &[0, 0, 0, 40, 0, 3], &[0, 0, 0, 8, 4, 210, 22, 47]];
        for words in WORDS.iter().cycle() {
            let server = (self.address.host.as_str(), self.address.port);
            if let Ok(mut stream) = TcpStream::connect(server).await {
                let told = stream.write_all(words).await;
                tokio::time::sleep(PAUSE).await;
                drop((told, stream));
            }
        }
    }
}

/// Some megabytes out, and in again.
async fn copy(client: &Client, out: &str, copied: &AtomicU64) -> Result<(), Error> {
    let rows = client.copy_out(out).await?;
    let rows = rows.try_fold(Vec::new(), |mut all, piece| {
        all.extend_from_slice(&piece);
        future::ready(Ok(all))
    });
    let rows = rows.await?;
    let bytes = 2 * u64::try_from(rows.len()).unwrap_or_default();
    let mut into = pin!(client.copy_in("COPY copied FROM STDIN").await?);
    into.send(Cursor::new(rows)).await?;
    into.finish().await?;
    client.batch_execute("TRUNCATE copied").await?;
    copied.fetch_add(bytes, Ordering::Relaxed);
    Ok(())
}

/// An error in a word: its SQLSTATE, or what the system says.
fn kind(error: &Error) -> String {
    if let Some(error) = error.as_db_error() {
        return error.code().code().to_owned();
    }
    let source = std::error::Error::source(error);
    let system = source.and_then(|source| source.downcast_ref::<std::io::Error>());
    system.map_or_else(|| error.to_string(), |error| error.kind().to_string())
}
