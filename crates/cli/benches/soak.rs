//! A cluster at full load for an hour (`SOAK_MINUTES`, 60), with a failover every minute: whether what
//! its daemons use grows, whether an acknowledged write is lost, and how long nobody can write.
//!
//! One host, etcd, three keepers with a synchronous standby, two sentinels, two proxies. Each proxy
//! has clients that write and read as fast as they are answered, connect for each query, are idle,
//! copy, cancel, and end in the middle of their first words. The primary's keeper and its PostgreSQL
//! are killed, frozen, or the keeper is declared failed, in turns; k0 is never killed, so that one
//! keeper lives as long as the soak. What each daemon uses is sampled every 5 s.
//!
//! Ends with a verdict, and with status 1 when it does not hold: `verdict.rs` has the bounds of what
//! daemons use, `SOAK_LIMIT` (60) is that of the seconds without a write. `make soak` runs it.

#[path = "../tests/e2e"]
mod e2e {
    #[allow(dead_code, reason = "the tests use more of it")]
    pub(crate) mod harness;
}
#[path = "soak/load.rs"]
mod load;
#[path = "soak/tally.rs"]
mod tally;
#[path = "soak/verdict.rs"]
mod verdict;
#[path = "soak/watch.rs"]
mod watch;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::harness::cluster::{Cluster, Daemon, Plan, Store};
use e2e::harness::writer::Address;
use e2e::harness::{LIMIT, eventually, within};
use load::Load;
use serde_json::json;
use tally::{Account, Tally, more};
use watch::Watch;

/// What is done to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGKILL to its keeper and all of its PostgreSQL, which come back after the failover.
    Kill,
    /// `stolonctl failkeeper`.
    Declare,
    /// SIGSTOP to all of them, and SIGCONT after the failover.
    Freeze,
}

impl Fault {
    const TURNS: [Self; 4] = [Self::Kill, Self::Declare, Self::Kill, Self::Freeze];

    const fn name(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Declare => "declared failed",
            Self::Freeze => "frozen",
        }
    }
}

/// A soak, after some minutes of it.
struct Soak {
    cluster: Cluster,
    second_proxy: Daemon,
    proxies: [Address; 2],
    tally: Arc<Tally>,
    watch: Watch,
    /// How often each keeper was started.
    starts: Vec<u32>,
    /// The primary after the last failover.
    primary: usize,
    /// The last row of each writer that was looked for.
    checked: Vec<u64>,
    /// The bound on a time without a write, and the longest one.
    limit: Duration,
    longest: Duration,
    failovers: u32,
    /// Failovers that nobody asked for.
    unasked: u32,
    failures: Vec<String>,
}

fn main() {
    let minutes = number("SOAK_MINUTES", 60).max(1);
    let limit = Duration::from_secs(number("SOAK_LIMIT", 60));
    let mut soak = Soak::start(limit);
    let load = Load::start(&soak.proxies, &soak.tally);
    eventually("all clients are connected", || {
        let connections = soak.tally.connections.load(Ordering::Relaxed);
        (connections >= 2 * load::CLIENTS as u64).then_some(())
    });
    soak.run(Duration::from_secs(60 * minutes));
    drop(load);
    let failures = soak.end(minutes);
    if failures.is_empty() {
        println!("\nverdict: holds");
        return;
    }
    println!("\nverdict: does not hold");
    for failure in failures {
        println!("  {failure}");
    }
    std::process::exit(1);
}

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

impl Soak {
    fn start(limit: Duration) -> Self {
        let plan = Plan::new(Store::Etcd)
            .sentinels(2)
            .synchronous()
            .with("pgParameters", json!({"max_connections": "400"}));
        let cluster = Cluster::start(&plan);
        eventually("a table", || cluster.address().query(load::TABLE).ok());
        let (second_proxy, port) = cluster.another_proxy("proxy1", &[]);
        let first = cluster.address();
        let second = Address {
            port,
            ..first.clone()
        };
        eventually("the second proxy is open", || second.query("SELECT 1").ok());
        let watch = Watch::start();
        watch.begin("proxy", cluster.proxy.pid());
        watch.begin("proxy1", second_proxy.pid());
        for (number, sentinel) in cluster.sentinels.iter().enumerate() {
            watch.begin(&format!("s{number}"), sentinel.pid());
        }
        for keeper in &cluster.keepers {
            watch.begin(&keeper.uid, keeper.daemon.pid());
        }
        let writers = 2 * load::WRITERS;
        Self {
            second_proxy,
            proxies: [first, second],
            tally: Arc::new(Tally::new(writers)),
            watch,
            starts: vec![1; cluster.keepers.len()],
            primary: cluster.primary(),
            checked: vec![0; writers],
            limit,
            longest: Duration::ZERO,
            failovers: 0,
            unasked: 0,
            failures: Vec::new(),
            cluster,
        }
    }

    /// A failover every minute, or as soon as the one before it is over.
    fn run(&mut self, length: Duration) {
        println!("of each daemon: MB of memory/descriptors/threads/sockets in CLOSE_WAIT\n");
        let began = Instant::now();
        let mut before = Figures::of(&self.tally);
        for turn in Fault::TURNS.into_iter().cycle() {
            // Lets go of what a failure leaves: the verdict is told, and everything is ended.
            let told = catch_unwind(AssertUnwindSafe(|| self.round(turn)));
            let Ok(told) = told else {
                self.failures
                    .push("a failover was not over in time: see above".to_owned());
                self.cluster.tell_logs();
                return;
            };
            let minute = began.elapsed().as_secs().div_euclid(60) + 1;
            let next = Duration::from_secs(60 * minute);
            std::thread::sleep(next.saturating_sub(began.elapsed()));
            let now = Figures::of(&self.tally);
            println!("{minute:>3} min: {} failovers; {told}", self.failovers);
            println!("         {}", now.since(&before));
            println!("         {}", self.uses());
            before = now;
            if began.elapsed() >= length {
                return;
            }
        }
    }

    /// One failover, until everything is as it was; what is to be told of it.
    fn round(&mut self, turn: Fault) -> String {
        let old = self.cluster.primary();
        if old != self.primary {
            self.unasked += 1;
        }
        // k0 lives as long as the soak.
        let fault = if turn == Fault::Kill && old == 0 {
            Fault::Freeze
        } else {
            turn
        };
        self.judge_gap("before it");
        let began = Instant::now();
        self.strike(old, fault);
        self.primary = self.cluster.another_primary_than(old);
        self.mend(old, fault);
        self.cluster.is_whole();
        let written = self.tally.acknowledged.load(Ordering::Relaxed);
        eventually("writes go on", || {
            (self.tally.acknowledged.load(Ordering::Relaxed) > written).then_some(())
        });
        let gap = self.judge_gap("in it");
        let whole = began.elapsed();
        self.failovers += 1;
        self.check_last_rows();
        format!(
            "k{old} {}, then k{}; {gap:.1?} without a write, whole after {whole:.1?}; \
             longest {:.1?}, {} unasked",
            fault.name(),
            self.primary,
            self.longest,
            self.unasked
        )
    }

    /// The longest time without a write since it was asked for last.
    fn judge_gap(&mut self, when: &str) -> Duration {
        let gap = self.tally.gap();
        self.longest = self.longest.max(gap);
        if gap > self.limit {
            let number = self.failovers + 1;
            let failure = format!("failover {number}: {gap:.1?} without a write {when}");
            self.failures.push(failure);
        }
        gap
    }

    fn strike(&mut self, old: usize, fault: Fault) {
        match fault {
            Fault::Kill => {
                self.watch.end(&self.incarnation(old));
                self.cluster.keepers[old].kill();
            }
            Fault::Declare => {
                let uid = self.cluster.keepers[old].uid.clone();
                self.cluster.ctl(&["failkeeper", &uid]);
            }
            Fault::Freeze => self.cluster.freeze(old),
        }
    }

    fn mend(&mut self, old: usize, fault: Fault) {
        match fault {
            Fault::Kill => {
                self.cluster.keepers[old].daemon.start();
                self.starts[old] += 1;
                let pid = self.cluster.keepers[old].daemon.pid();
                self.watch.begin(&self.incarnation(old), pid);
            }
            Fault::Declare => {}
            Fault::Freeze => self.cluster.keepers[old].thaw(),
        }
    }

    /// A keeper's name among the processes that are watched.
    fn incarnation(&self, keeper: usize) -> String {
        let uid = &self.cluster.keepers[keeper].uid;
        match self.starts[keeper] {
            1 => uid.clone(),
            start => format!("{uid}#{start}"),
        }
    }

    fn uses(&self) -> String {
        let (orphans, waiting) = watch::abandoned();
        let each = self.watch.last().into_iter().map(|(name, sample)| {
            let [whole, tenth] = [sample.memory / 1024, sample.memory % 1024 * 10 / 1024];
            format!(
                "{name} {whole}.{tenth}/{}/{}/{}",
                sample.descriptors, sample.threads, sample.half_closed
            )
        });
        let each: Vec<String> = each.collect();
        format!(
            "{}; sockets of nobody {orphans}, in TIME_WAIT {waiting}",
            each.join("  ")
        )
    }

    /// Looks for the rows that were acknowledged since it did so last.
    fn check_last_rows(&mut self) {
        for (writer, account) in self.tally.accounts().into_iter().enumerate() {
            let first = self.checked[writer] + 1;
            self.checked[writer] = account.last;
            let address = self.cluster.address();
            let missing = eventually("the rows can be read", || {
                missing(&address, writer, first, &account)
            });
            self.lose(writer, "the primary", &missing);
        }
    }

    fn lose(&mut self, writer: usize, place: &str, missing: &[u64]) {
        if let Some(first) = missing.first() {
            self.failures.push(format!(
                "{} acknowledged rows of writer {writer} are not on {place}, the first is {first}",
                missing.len()
            ));
        }
    }

    /// Looks at everything once more; what failed.
    fn end(mut self, minutes: u64) -> Vec<String> {
        println!();
        if self.failures.is_empty() {
            self.check_all_rows();
        }
        self.check_growth(minutes);
        for name in self.watch.ended() {
            self.failures.push(format!("{name} has ended by itself"));
        }
        if u64::from(self.failovers) < minutes.div_ceil(2) {
            let failure = format!("{} failovers are too few to show anything", self.failovers);
            self.failures.push(failure);
        }
        let mut daemons = vec![&self.cluster.proxy, &self.second_proxy];
        daemons.extend(&self.cluster.sentinels);
        daemons.extend(self.cluster.keepers.iter().map(|keeper| &keeper.daemon));
        let panicked = daemons
            .iter()
            .any(|daemon| daemon.said().contains("panicked"));
        if panicked {
            self.failures.push("a daemon has panicked".to_owned());
        }
        println!(
            "{} failovers, {} unasked, {} acknowledged writes, longest time without one {:.1?}",
            self.failovers,
            self.unasked,
            self.tally.acknowledged.load(Ordering::Relaxed),
            self.longest
        );
        println!("errors: {}", more(&self.tally.errors(), &BTreeMap::new()));
        std::mem::take(&mut self.failures)
    }

    /// Every acknowledged row is on every instance.
    fn check_all_rows(&mut self) {
        let whole = catch_unwind(AssertUnwindSafe(|| self.cluster.is_whole()));
        if whole.is_err() {
            self.failures.push("the cluster is not whole".to_owned());
            return;
        }
        let primary = self.cluster.primary();
        for (writer, account) in self.tally.accounts().into_iter().enumerate() {
            let address = self.cluster.keepers[primary].direct.clone();
            let rows = eventually("the rows can be read", || {
                missing(&address, writer, 1, &account)
            });
            self.lose(writer, "the primary", &rows);
            for standby in self.cluster.standbys() {
                let address = self.cluster.keepers[standby].direct.clone();
                let has_all = catch_unwind(|| {
                    within(LIMIT, "a standby has all rows", || {
                        missing(&address, writer, 1, &account).filter(Vec::is_empty)
                    })
                });
                if has_all.is_err() {
                    self.failures
                        .push(format!("k{standby} lacks rows of writer {writer}"));
                }
            }
        }
    }

    /// What no process may do, and that those were seen for long enough that live for all of it.
    fn check_growth(&mut self, minutes: u64) {
        // A fifth of the time, five minutes at the most.
        let warm_up = (60 * minutes / 5).min(300) / watch::EVERY.as_secs();
        let warm_up = usize::try_from(warm_up).expect("a number");
        let mut always: Vec<String> = ["proxy", "proxy1", "k0"].map(str::to_owned).into();
        always.extend((0..self.cluster.sentinels.len()).map(|number| format!("s{number}")));
        for (name, samples) in self.watch.samples() {
            match verdict::growth(&samples, warm_up) {
                Some(growth) => {
                    println!("{name}: {}", growth.told);
                    let beyond = growth.beyond.iter();
                    self.failures
                        .extend(beyond.map(|beyond| format!("{name}: {beyond}")));
                    always.retain(|other| *other != name);
                }
                None => println!("{name}: lived for too short to be judged"),
            }
        }
        for name in always {
            self.failures
                .push(format!("{name} was not watched for long enough"));
        }
    }
}

/// The acknowledged rows of a writer, from the first on, that are not there; none: no answer.
fn missing(address: &Address, writer: usize, first: u64, account: &Account) -> Option<Vec<u64>> {
    let sql = format!(
        "SELECT row FROM generate_series({first}, {}) row WHERE NOT EXISTS
         (SELECT FROM soaked WHERE writer = {writer} AND soaked.row = row.row) ORDER BY 1",
        account.last
    );
    // As long as it takes: a client that waits for a minute and more.
    let rows = address.ask(&sql).join().expect("a thread").ok()?;
    let rows = rows.iter().filter_map(|row| row.parse().ok());
    Some(rows.filter(|row| !account.unknown.contains(row)).collect())
}

/// What the clients had done at a moment.
struct Figures {
    at: Instant,
    counts: [u64; 5],
    errors: BTreeMap<String, u64>,
}

impl Figures {
    fn of(tally: &Tally) -> Self {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            at: Instant::now(),
            counts: [
                count(&tally.acknowledged),
                count(&tally.queries),
                count(&tally.connections),
                count(&tally.copied),
                count(&tally.cancelled),
            ],
            errors: tally.errors(),
        }
    }

    /// What they did since then.
    fn since(&self, before: &Self) -> String {
        let seconds = (self.at - before.at).as_secs().max(1);
        let mut counts = self.counts;
        for (count, before) in counts.iter_mut().zip(before.counts) {
            *count -= before;
        }
        let [written, queries, connections, copied, cancelled] = counts;
        format!(
            "{} writes/s, {} statements/s, {} connections/s, {} MB copied, {cancelled} cancelled; \
             errors: {}",
            written / seconds,
            queries / seconds,
            connections / seconds,
            copied / 1_000_000,
            more(&self.errors, &before.errors)
        )
    }
}
