//! Many sessions that do nothing, and some of them that do something, with a server that is none.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::e2e::harness::cluster::Cluster;
use crate::e2e::harness::eventually;

/// How long the active ones talk.
const TALK: Duration = Duration::from_secs(5);
/// What is said, and answered with the same.
const WORDS: [u8; 100] = [b'.'; 100];

/// Holds `idle` sessions, lets `active` of them talk, and tells what that took.
pub(crate) fn measure(cluster: &mut Cluster, idle: u64, active: u64) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = runtime
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .expect("a server");
    lead_to(cluster, server.local_addr().expect("an address").port());
    runtime.spawn(echo(server));
    let pid = cluster.proxy.pid();
    eventually("the proxy leads to the stand-in", || {
        runtime.block_on(talk_once(cluster.proxy_port)).ok()
    });
    let before = resident(pid);
    let mut sessions = Vec::new();
    for _ in 0..idle {
        let connected = runtime.block_on(TcpStream::connect(("127.0.0.1", cluster.proxy_port)));
        sessions.push(connected.expect("a session"));
    }
    // The last one answers: all are carried.
    let last = sessions.last_mut().expect("a session");
    runtime.block_on(say(last)).expect("an answer");
    let each = resident(pid).saturating_sub(before) * 1024 / idle.max(1);
    println!("\n{idle} idle sessions: {each} bytes of the proxy's memory each");
    let began = Instant::now();
    let spent = super::processor_time(pid);
    let talking: Vec<_> = sessions
        .drain(
            ..usize::try_from(active)
                .expect("a number")
                .min(sessions.len()),
        )
        .map(|mut session| {
            runtime.spawn(async move {
                let mut rounds = 0_u64;
                while began.elapsed() < TALK {
                    say(&mut session).await?;
                    rounds += 1;
                }
                Ok::<_, std::io::Error>(rounds)
            })
        })
        .collect();
    let mut rounds = 0;
    let mut errors = 0;
    for task in talking {
        match runtime.block_on(task).expect("a task") {
            Ok(count) => rounds += count,
            Err(_) => errors += 1,
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let rate = f64::from(u32::try_from(rounds).unwrap_or(u32::MAX)) / seconds;
    let cost = (super::processor_time(pid) - spent) / (rate * seconds) * 1e6;
    println!("{active} of them active: {rate:.0} answers/s, {cost:.2} us/answer, {errors} errors");
    runtime.shutdown_background();
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

async fn talk_once(port: u16) -> std::io::Result<()> {
    let mut session = TcpStream::connect(("127.0.0.1", port)).await?;
    say(&mut session).await
}

async fn say(session: &mut TcpStream) -> std::io::Result<()> {
    let mut answer = WORDS;
    session.write_all(&WORDS).await?;
    session.read_exact(&mut answer).await?;
    Ok(())
}

/// The memory of a process that is in use, in KiB (proc(5), `status`).
fn resident(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.expect("VmRSS").split_whitespace().next();
    words.expect("a number").parse().expect("a number")
}
