//! A server that is none: it answers with what it is told.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::e2e::harness::cluster::Cluster;
use crate::e2e::harness::eventually;

/// What is said, and answered with the same.
const WORDS: [u8; 100] = [b'.'; 100];

/// The server, for as long as this lives.
pub(crate) struct StandIn {
    pub(crate) runtime: Runtime,
    pub(crate) port: u16,
}

impl StandIn {
    /// Starts it, and has the cluster's proxies lead there.
    pub(crate) fn start(cluster: &mut Cluster) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let server = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a server");
        let port = server.local_addr().expect("an address").port();
        lead_to(cluster, port);
        runtime.spawn(echo(server));
        eventually("the proxy leads to the stand-in", || {
            runtime.block_on(talk_once(cluster.proxy_port)).ok()
        });
        Self { runtime, port }
    }
}

/// Has the proxy believe that the primary is at this port. Nobody is left who would know better.
fn lead_to(cluster: &mut Cluster, port: u16) {
    for sentinel in &mut cluster.sentinels {
        sentinel.kill();
    }
    for keeper in &mut cluster.keepers {
        keeper.kill();
    }
    let mut data = cluster.data().expect("the cluster data");
    let db = data["proxy"]["spec"]["masterDbUid"]
        .as_str()
        .expect("a primary")
        .to_owned();
    let status = &mut data["dbs"][&db]["status"];
    status["listenAddress"] = json!("127.0.0.1");
    status["port"] = json!(port.to_string());
    let file = cluster.folder().join("stand-in.json");
    std::fs::write(&file, data.to_string()).expect("a file");
    cluster.ctl(&[
        "clusterdata",
        "write",
        "-y",
        "-f",
        &file.display().to_string(),
    ]);
}

async fn echo(server: TcpListener) {
    loop {
        let (mut session, _) = server.accept().await.expect("a session");
        tokio::spawn(async move {
            let mut words = WORDS;
            while session.read_exact(&mut words).await.is_ok() {
                if session.write_all(&words).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A session of one question.
pub(crate) async fn talk_once(port: u16) -> std::io::Result<()> {
    let mut session = TcpStream::connect(("127.0.0.1", port)).await?;
    say(&mut session).await
}

/// One question, and its answer.
pub(crate) async fn say(session: &mut TcpStream) -> std::io::Result<()> {
    let mut answer = WORDS;
    session.write_all(&WORDS).await?;
    session.read_exact(&mut answer).await?;
    Ok(())
}
