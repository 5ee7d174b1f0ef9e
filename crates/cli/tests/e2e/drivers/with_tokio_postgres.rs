//! A client by tokio-postgres.

use std::io::Cursor;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use futures_util::{SinkExt as _, TryStreamExt as _, future, stream};
use tokio::sync::mpsc;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Notification, Socket};

use super::secured::Connector;
use crate::harness::LIMIT;
use crate::harness::writer::Address;

/// Does what there is to a topic, within the limit of tests.
pub(super) fn run(address: &Address, authority: &Path, topic: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let doing = async {
            match topic {
                "hold" => return hold(address).await,
                "cancel" => cancel(address, NoTls).await,
                "copy" => copy(address).await,
                "large_objects" => large_objects(address).await,
                "listen" => listen(address).await,
                "tls" => tls(address, authority).await,
                _ => panic!("no such topic: {topic}"),
            }
            String::new()
        };
        let done = tokio::time::timeout(LIMIT, doing).await;
        done.unwrap_or_else(|_| panic!("tokio-postgres: {topic}: not within {LIMIT:?}"))
    })
}

/// A session, and what comes of its own accord.
async fn session<T>(address: &Address, tls: T) -> (Client, mpsc::UnboundedReceiver<Notification>)
where
    T: MakeTlsConnect<Socket> + Send,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (client, mut connection) = Config::new()
        .host(&address.host)
        .port(address.port)
        .user(&address.user)
        .password(&address.password)
        .dbname("postgres")
        .connect_timeout(LIMIT)
        .connect(tls)
        .await
        .expect("a session");
    let (news, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = pin!(stream::poll_fn(move |cx| connection.poll_message(cx)));
        while let Ok(Some(message)) = messages.try_next().await {
            if let AsyncMessage::Notification(notification) = message {
                // Who does not listen has dropped the other end.
                let told = news.send(notification);
                drop(told);
            }
        }
    });
    (client, heard)
}

async fn plain(address: &Address) -> Client {
    session(address, NoTls).await.0
}

async fn hold(address: &Address) -> String {
    let client = plain(address).await;
    let row = client.query_one("SELECT inet_server_port()", &[]).await;
    row.expect("a port").get::<_, i32>(0).to_string()
}

async fn backend(client: &Client) -> i32 {
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await;
    row.expect("a pid").get(0)
}

async fn cancel<T>(address: &Address, tls: T)
where
    T: MakeTlsConnect<Socket> + Clone + Send,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (client, _) = session(address, tls.clone()).await;
    let other = plain(address).await;
    let pid = backend(&client).await;
    let cancels = async {
        let seen = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'";
        while other.query(seen, &[&pid]).await.expect("rows").is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        client.cancel_token().cancel_query(tls).await
    };
    let sleeps = client.batch_execute("SELECT pg_sleep(75)");
    let (slept, cancelled) = future::join(sleeps, cancels).await;
    cancelled.expect("a request to cancel");
    let error = slept.expect_err("it slept to its end");
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{error}");
    assert_eq!(backend(&client).await, pid);
}

async fn copy(address: &Address) {
    let client = plain(address).await;
    let made = client.batch_execute("CREATE TEMP TABLE copied (id int, words text)");
    made.await.expect("a table");
    let row = |number: usize| format!("{number}\t{}\n", "x".repeat(number % 97));
    let rows: String = (0..100_000).map(row).collect();
    let sink = client.copy_in("COPY copied FROM STDIN").await;
    let mut sink = pin!(sink.expect("COPY"));
    for piece in rows.as_bytes().chunks(70_000) {
        sink.send(Cursor::new(piece.to_vec())).await.expect("rows");
    }
    assert_eq!(sink.finish().await.expect("an end"), 100_000);
    let out = client.copy_out("COPY (SELECT * FROM copied ORDER BY id) TO STDOUT");
    let out = out
        .await
        .expect("COPY")
        .try_fold(Vec::new(), |mut all, piece| {
            all.extend_from_slice(&piece);
            future::ready(Ok(all))
        });
    assert!(out.await.expect("rows") == rows.as_bytes(), "other rows");
}

async fn large_objects(address: &Address) {
    let client = plain(address).await;
    let content: Vec<u8> = (0_u32..1 << 20).flat_map(u32::to_le_bytes).collect();
    let row = client
        .query_one("SELECT lo_from_bytea(0, $1)", &[&content])
        .await;
    let oid: u32 = row.expect("an object").get(0);
    let row = client.query_one("SELECT lo_get($1)", &[&oid]).await;
    assert!(
        row.expect("bytes").get::<_, Vec<u8>>(0) == content,
        "other bytes"
    );
    let gone = client.query_one("SELECT lo_unlink($1)", &[&oid]).await;
    assert_eq!(gone.expect("an answer").get::<_, i32>(0), 1);
}

async fn listen(address: &Address) {
    let (client, mut heard) = session(address, NoTls).await;
    let other = plain(address).await;
    client.batch_execute("LISTEN news").await.expect("LISTEN");
    let pid = backend(&other).await;
    for number in 0..3 {
        let news = number.to_string().repeat(7000);
        let told = other
            .execute("SELECT pg_notify('news', $1)", &[&news])
            .await;
        told.expect("told");
        let notification = heard.recv().await.expect("news");
        assert_eq!(
            (notification.process_id(), notification.payload()),
            (pid, &*news)
        );
    }
}

async fn tls(address: &Address, authority: &Path) {
    let connector = Connector::new(authority);
    let (client, _) = session(address, connector.clone()).await;
    let ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = client.query_one(ssl, &[]).await;
    assert!(
        row.expect("an answer").get::<_, bool>(0),
        "PostgreSQL sees no TLS"
    );
    cancel(address, connector).await;
}
