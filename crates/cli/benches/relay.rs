//! What the proxy costs, beside others that carry clients of PostgreSQL: HAProxy in TCP mode and
//! PgBouncer in session mode, and none at all.
//!
//! One PostgreSQL, on the same host. Each row is done in every way, one after the other, and that
//! several times (ROUNDS, 5; SECONDS, 3, each); what counts is the ratio to the direct connection of
//! the same round, because machines are noisy. A proxy's processor time is that of its process
//! (`schedstat` of its threads, Linux's scheduler/sched-stats), per transaction and per GB. Then sessions with a server that says nothing are
//! held (IDLE, 5000), and some of them are used (ACTIVE, 1000).
//!
//! `make bench` runs it; words after `cargo bench --bench relay --` choose rows and ways that contain
//! one of them. A way whose program is not installed is left out, and that is said.

#[path = "../tests/e2e"]
mod e2e {
    #[allow(dead_code, reason = "the tests use more of it")]
    pub(crate) mod harness;
}
#[path = "relay/brief.rs"]
mod brief;
#[path = "relay/crowd.rs"]
mod crowd;
#[path = "relay/stand_in.rs"]
mod stand_in;
#[path = "relay/waking.rs"]
mod waking;
#[path = "relay/ways.rs"]
mod ways;

use std::process::Command;
use std::time::{Duration, Instant};

use e2e::harness::cluster::{Cluster, Plan, SUPERUSER, Store};
use e2e::harness::process;
use serde_json::json;
use stand_in::StandIn;
use ways::{Second, Way, ways};

/// What is done after the rows, at a stand-in.
const BRIEF: &str = "brief sessions";
const IDLE: &str = "idle sessions";

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    /// One client, the simple protocol.
    One,
    /// Four clients, prepared statements.
    Prepared,
    /// Sixty-four clients, the simple protocol.
    Many,
    /// Four clients that connect for each transaction.
    Connect,
    /// One table out by COPY.
    Copy,
}

impl Row {
    const ALL: [Self; 5] = [
        Self::One,
        Self::Prepared,
        Self::Many,
        Self::Connect,
        Self::Copy,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::One => "1 client simple",
            Self::Prepared => "4 clients prepared",
            Self::Many => "64 clients simple",
            Self::Connect => "connect per transaction",
            Self::Copy => "COPY out",
        }
    }

    /// Words for pgbench; none: another program does it.
    const fn words(self) -> Option<&'static [&'static str]> {
        match self {
            Self::One => Some(&["-c1", "-j1"]),
            Self::Prepared => Some(&["-c4", "-j2", "-Mprepared"]),
            Self::Many => Some(&["-c64", "-j2"]),
            Self::Connect => Some(&["-c4", "-j2", "-C"]),
            Self::Copy => None,
        }
    }

    /// What processor time is given for.
    const fn unit(self) -> &'static str {
        match self {
            Self::Copy => "s/GB",
            Self::Connect => "us/connection",
            Self::One | Self::Prepared | Self::Many => "us/query",
        }
    }
}

/// What one way showed in one round: how much a second, and processor time for each.
#[derive(Debug, Clone, Copy)]
struct Measured {
    rate: f64,
    cost: f64,
}

/// A table that is some hundred megabytes by COPY.
const TABLE: &str = "CREATE TABLE big AS SELECT g id, md5(g::text) || md5((g + 1)::text) words
    FROM generate_series(1, 3000000) g";
const TABLE_SIZE: &str = "SELECT sum(length(id::text) + length(words) + 2)::text FROM big";

fn main() {
    let rounds = usize::try_from(number("ROUNDS", 5))
        .expect("a number")
        .max(1);
    let seconds = number("SECONDS", 3).max(1);
    // `cargo bench` hands on its own flags.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let chosen =
        |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    waking::tell();
    let mut cluster = start();
    let second = Second::start(&cluster);
    let direct = cluster.keepers[0].direct.port;
    let mut ways = ways(&cluster, &second, direct);
    let mut sections = Row::ALL.map(Row::name).into_iter().chain([BRIEF, IDLE]);
    let by_section = sections.any(chosen);
    if !by_section {
        ways.retain(|way| way.is_direct() || chosen(&way.name));
    }
    let wanted = |section: &str| !by_section || chosen(section);
    let rows = Row::ALL.into_iter().filter(|row| wanted(row.name()));
    for row in rows {
        println!(
            "\n{}: rate, ratio to direct, the proxy's processor time; medians of {rounds}",
            row.name()
        );
        let rounds: Vec<Vec<Measured>> = (0..rounds)
            .map(|round| in_turn(&mut cluster, &ways, row, round, seconds))
            .collect();
        tell_row(row.unit(), &ways, &rounds);
    }
    drop(ways);
    if wanted(BRIEF) || wanted(IDLE) {
        let stand_in = StandIn::start(&mut cluster);
        if wanted(BRIEF) {
            brief::measure((&cluster, &second), &stand_in, rounds, seconds);
        }
        if wanted(IDLE) {
            let (idle, active) = (number("IDLE", 5000), number("ACTIVE", 1000));
            crowd::measure(&cluster, &stand_in, idle, active);
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A cluster of one instance, with something in it.
fn start() -> Cluster {
    let settings = json!({"max_connections": "200", "fsync": "off"});
    let plan = Plan::new(Store::Sqlite)
        .keepers(1)
        .with("pgParameters", settings);
    let cluster = Cluster::start(&plan);
    let direct = &cluster.keepers[0].direct;
    let mut fill = pgbench(direct.port);
    let filled = fill.args(["-i", "-q", "-s10", "postgres"]).output();
    assert!(filled.expect("pgbench runs").status.success(), "pgbench -i");
    // As long as it takes: a client that waits for a minute and more.
    direct
        .ask(TABLE)
        .join()
        .expect("a thread")
        .expect("a table");
    cluster
}

/// Every way once, each round beginning with another.
fn in_turn(
    cluster: &mut Cluster,
    ways: &[Way],
    row: Row,
    round: usize,
    seconds: u64,
) -> Vec<Measured> {
    let mut measured: Vec<(usize, Measured)> = (0..ways.len())
        .map(|turn| (turn + round) % ways.len())
        .map(|number| (number, measure(cluster, &ways[number], row, seconds)))
        .collect();
    measured.sort_by_key(|(number, _)| *number);
    measured.into_iter().map(|(_, measured)| measured).collect()
}

fn measure(cluster: &Cluster, way: &Way, row: Row, seconds: u64) -> Measured {
    let before = way.pid.map(processor_time);
    let (done, rate) = match row.words() {
        Some(words) => transactions(way.port, words, seconds),
        None => copy(cluster, way.port),
    };
    let spent = way
        .pid
        .map_or(0.0, |pid| processor_time(pid) - before.unwrap_or(0.0));
    Measured {
        rate,
        cost: spent / done,
    }
}

/// How many transactions were done, in millions, and how many a second.
fn transactions(port: u16, words: &[&str], seconds: u64) -> (f64, f64) {
    let mut command = pgbench(port);
    command
        .args(["-n", "-S", "-T", &seconds.to_string()])
        .args(words);
    let output = command.arg("postgres").output().expect("pgbench runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let after = |words: &str| -> Option<f64> {
        let (_, rest) = said.split_once(words)?;
        rest.split([' ', '\n', '/']).next()?.parse().ok()
    };
    let done = after("actually processed: ").zip(after("tps = "));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let (done, rate) = done.unwrap_or_else(|| panic!("pgbench on {port}: {said}{errors}"));
    (done / 1e6, rate)
}

/// How many gigabytes were copied, and how many a second.
fn copy(cluster: &Cluster, port: u16) -> (f64, f64) {
    let size = cluster.keepers[0].direct.query(TABLE_SIZE).expect("a size");
    let size: f64 = size[0].parse().expect("a number");
    let mut psql = Command::new(process::postgres_program("psql"));
    let began = Instant::now();
    let status = connected(&mut psql, port)
        .args(["-qc", "COPY big TO STDOUT", "postgres"])
        .stdout(std::process::Stdio::null())
        .status();
    assert!(status.expect("psql runs").success(), "COPY on {port}");
    let size = size / 1e9;
    (size, size / began.elapsed().as_secs_f64())
}

fn pgbench(port: u16) -> Command {
    let mut command = Command::new(process::postgres_program("pgbench"));
    connected(&mut command, port);
    command
}

fn connected(command: &mut Command, port: u16) -> &mut Command {
    let (user, password) = SUPERUSER;
    command
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", user])
        .env("PGPASSWORD", password)
}

/// What the threads of a process have used of processors since they began, in seconds.
fn processor_time(pid: i32) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let used = threads.map(|thread| {
        let file = thread.expect("a thread").path().join("schedstat");
        let text = std::fs::read_to_string(file).expect("its times");
        let nanoseconds = text.split_whitespace().next().expect("the first");
        nanoseconds.parse::<f64>().expect("nanoseconds")
    });
    used.sum::<f64>() / 1e9
}

/// Tells what the ways showed in each round.
fn tell_row(unit: &str, ways: &[Way], rounds: &[Vec<Measured>]) {
    for (number, way) in ways.iter().enumerate() {
        let of = |value: &dyn Fn(&Vec<Measured>) -> f64| median(rounds.iter().map(value).collect());
        let rate = of(&|round| round[number].rate);
        let ratio = of(&|round| round[number].rate / round[0].rate);
        let cost = of(&|round| round[number].cost);
        let cost = if way.is_direct() {
            String::new()
        } else {
            format!("{cost:8.2} {unit}")
        };
        println!("  {:<22} {rate:10.2} {ratio:6.3} {cost}", way.name);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Waits until a port answers.
fn answers(port: u16) {
    e2e::harness::within(Duration::from_secs(20), "a proxy listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
}
