//! The client that measures: it inserts a row every 10 ms through the proxy, connects again when its
//! session ends, and records what was acknowledged.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Config, NoTls};

use super::{LIMIT, eventually, hosts};

/// Between two rows, and between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(10);
/// An attempt to connect that takes longer is given up.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// So is a statement, for a client whose server is gone without a word.
const STATEMENT_LIMIT: Duration = Duration::from_mins(1);

/// Where a client connects.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: String,
    /// The network namespace to connect from.
    pub(crate) namespace: Option<String>,
}

impl Address {
    async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        self.connect_within(CONNECT_LIMIT).await
    }

    /// A session of somebody who waits so long for it; its connection ends with the runtime.
    pub(crate) async fn connect_within(
        &self,
        limit: Duration,
    ) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = Config::new()
            .host(&self.host)
            .port(self.port)
            .user(&self.user)
            .password(&self.password)
            .dbname("postgres")
            .connect_timeout(limit)
            .connect(NoTls)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A session that stays open, idle, until it is dropped; its `application_name` is `name`. The
    /// attempt to connect is the only one, and waits as long as tests do.
    pub(crate) fn hold(&self, name: &str) -> Session {
        let (address, name) = (self.clone(), name.to_owned());
        let (drop_me, dropped) = tokio::sync::oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            if let Some(namespace) = &address.namespace {
                hosts::enter(namespace);
            }
            runtime().block_on(async {
                let client = address.connect_within(LIMIT).await.expect("a session");
                let set = format!("SET application_name = '{name}'");
                client.batch_execute(&set).await.expect("its name");
                ready.send(()).expect("somebody waits");
                let end = dropped.await;
                drop((end, client));
            });
        });
        is_ready.recv().expect("a session");
        Session {
            drop_me: Some(drop_me),
            thread: Some(thread),
        }
    }

    /// The first column of every row, as text; an error as text when there is none.
    pub(crate) fn query(&self, sql: &str) -> Result<Vec<String>, String> {
        self.query_within(sql, Duration::from_secs(10))
    }

    /// The same by somebody who waits for it, for as long as tests do, while others go on.
    pub(crate) fn ask(&self, sql: &str) -> JoinHandle<Result<Vec<String>, String>> {
        let (address, sql) = (self.clone(), sql.to_owned());
        std::thread::spawn(move || address.query_within(&sql, LIMIT))
    }

    fn query_within(&self, sql: &str, limit: Duration) -> Result<Vec<String>, String> {
        let (address, sql) = (self.clone(), sql.to_owned());
        let connect_limit = CONNECT_LIMIT.max(limit / 5);
        let ask = async move {
            let connected = address.connect_within(connect_limit).await;
            let client = connected.map_err(|error| describe(&error))?;
            let rows = client
                .simple_query(&sql)
                .await
                .map_err(|error| describe(&error))?;
            let texts = rows.into_iter().filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some(row.get(0).unwrap_or_default().to_owned())
                }
                _ => None,
            });
            Ok(texts.collect())
        };
        let limited = async {
            let answer = tokio::time::timeout(limit, ask).await;
            answer.unwrap_or_else(|_| Err(format!("no answer in {} s", limit.as_secs())))
        };
        let namespace = self.namespace.clone();
        // A thread of its own: entering a namespace is for a thread's whole life.
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    if let Some(namespace) = namespace {
                        hosts::enter(&namespace);
                    }
                    runtime().block_on(limited)
                })
                .join()
                .expect("a query")
        })
    }
}

fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{}: {}", error.code().code(), error.message()),
        None => error.to_string(),
    }
}

/// For a client in a thread of its own.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// An open session.
#[derive(Debug)]
pub(crate) struct Session {
    drop_me: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.drop_me.take());
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            drop(joined);
        }
    }
}

/// What a client was told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    /// Rows whose commit was acknowledged.
    pub(crate) acknowledged: BTreeSet<i64>,
    /// Rows whose fate the client does not know.
    pub(crate) unknown: BTreeSet<i64>,
    /// The longest time between two acknowledgements.
    pub(crate) gap: Duration,
    /// What servers and connections said when something failed, without repetitions in a row.
    pub(crate) errors: Vec<String>,
}

/// A running client.
#[derive(Debug)]
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    last: Arc<AtomicI64>,
    account: Arc<Mutex<Account>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Makes the table when there is none and starts writing; returns after the first row.
    pub(crate) fn start(address: &Address) -> Self {
        let table = "CREATE TABLE IF NOT EXISTS written (id bigint PRIMARY KEY)";
        eventually("a table can be made", || address.query(table).ok());
        let first = address.query("SELECT coalesce(max(id), 0) FROM written");
        let first: i64 = first.expect("a row")[0].parse().expect("a number");
        let mut writer = Self {
            stop: Arc::default(),
            last: Arc::new(AtomicI64::new(first)),
            account: Arc::default(),
            thread: None,
        };
        let (address, stop) = (address.clone(), writer.stop.clone());
        let (last, account) = (writer.last.clone(), writer.account.clone());
        let write = move || {
            if let Some(namespace) = &address.namespace {
                hosts::enter(namespace);
            }
            runtime().block_on(write(&address, first, &stop, &last, &account));
        };
        writer.thread = Some(std::thread::spawn(write));
        writer.goes_on();
        writer
    }

    /// Waits until rows written after this call are acknowledged.
    #[track_caller]
    pub(crate) fn goes_on(&self) {
        let before = self.last.load(Ordering::SeqCst);
        // One may have been on its way.
        eventually("writes are acknowledged", || {
            (self.last.load(Ordering::SeqCst) > before + 1).then_some(())
        });
    }

    /// Waits until this many more rows are acknowledged.
    #[track_caller]
    pub(crate) fn writes(&self, rows: i64) {
        let wanted = self.last() + rows;
        eventually("rows are written", || (self.last() >= wanted).then_some(()));
    }

    /// Waits until something failed since it began.
    #[track_caller]
    pub(crate) fn notices(&self) {
        eventually("the client notices", || {
            let account = self.account.lock().expect("the account");
            (!account.errors.is_empty()).then_some(())
        });
    }

    /// The highest row that was acknowledged.
    pub(crate) fn last(&self) -> i64 {
        self.last.load(Ordering::SeqCst)
    }

    /// Ends it.
    pub(crate) fn stop(mut self) -> Account {
        self.end();
        self.account.lock().expect("the account").clone()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            drop(joined);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

async fn write(
    address: &Address,
    first: i64,
    stop: &AtomicBool,
    last: &AtomicI64,
    account: &Mutex<Account>,
) {
    let mut client: Option<Client> = None;
    let mut acknowledged_at: Option<Instant> = None;
    let mut id = first;
    let fail = |text: String| {
        let mut account = account.lock().expect("the account");
        if account.errors.last() != Some(&text) {
            account.errors.push(text);
        }
    };
    while !stop.load(Ordering::SeqCst) {
        let Some(session) = &client else {
            match address.connect().await {
                Ok(connected) => client = Some(connected),
                Err(error) => {
                    fail(describe(&error));
                    tokio::time::sleep(PAUSE).await;
                }
            }
            continue;
        };
        id += 1;
        let statement = format!("INSERT INTO written VALUES ({id})");
        let answer = session.batch_execute(&statement);
        match stoppable(answer, stop).await {
            Some(Ok(())) => {
                let now = Instant::now();
                let mut account = account.lock().expect("the account");
                account.acknowledged.insert(id);
                let before = acknowledged_at.replace(now).unwrap_or(now);
                account.gap = account.gap.max(now - before);
                last.store(id, Ordering::SeqCst);
            }
            Some(Err(error)) => {
                account.lock().expect("the account").unknown.insert(id);
                fail(describe(&error));
                client = None;
            }
            None => {
                account.lock().expect("the account").unknown.insert(id);
                client = None;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// None: no answer within the limit, or the writer is to stop.
async fn stoppable<T>(answer: impl Future<Output = T>, stop: &AtomicBool) -> Option<T> {
    let stopped = async {
        while !stop.load(Ordering::SeqCst) {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        answer = tokio::time::timeout(STATEMENT_LIMIT, answer) => answer.ok(),
        () = stopped => None,
    }
}
