//! Real PostgreSQL servers for the stories, as a keeper would run them.

#[path = "../../../../testing/free_port.rs"]
mod free_port;
#[path = "../../../../testing/shared_memory.rs"]
mod shared_memory;

use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use free_port::free_port;
use rustix::process::{Pid, Signal, kill_process};
use stolon_postgres::config_files::{self, Configuration};
use stolon_postgres::conninfo::ConnInfo;
use stolon_postgres::process::{Postmaster, StopMode, become_subreaper};
use stolon_postgres::query::{Observation, Session, Target};
use stolon_postgres::tls::Tls;
use stolon_postgres::{Error, Installation, basebackup, data_dir, initdb};

/// Bound on everything a story waits for.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// The superuser of every server.
pub(crate) const SUPERUSER: &str = "postgres";
/// The replication user of every server.
pub(crate) const REPLICATION_USER: &str = "repl";
/// Needs every kind of escaping there is on its way through files and connection strings.
pub(crate) const REPLICATION_PASSWORD: &str = r"it's a \secret: c:\d'q'";

/// Runs a story. PostgreSQL refuses to run as root: there the test runs itself again as `postgres`.
pub(crate) fn story<F: Future<Output = ()>>(name: &str, tell: F) {
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = database_user();
        let program = std::env::current_exe().expect("this program");
        let status = std::process::Command::new(program)
            .args([name, "--exact", "--nocapture"])
            .current_dir("/")
            .uid(uid)
            .gid(gid)
            .status()
            .expect("this program runs again");
        assert!(status.success(), "{name} as the database user: {status}");
        return;
    }
    become_subreaper().expect("a subreaper");
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(tell);
}

/// passwd(5): the user that Debian's packages make.
fn database_user() -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").expect("users");
    let line = users
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .expect("a user postgres, whom root's tests run servers as");
    let number = |index: usize| line.split(':').nth(index)?.parse().ok();
    (number(2).expect("a uid"), number(3).expect("a gid"))
}

/// Waits until `look` finds something.
pub(crate) async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A server with a folder of its own, both gone at the end.
pub(crate) struct Server {
    pub(crate) installation: Installation,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) port: u16,
    pub(crate) postmaster: Option<Postmaster>,
    /// What it said.
    pub(crate) output: Arc<Mutex<Vec<String>>>,
    /// Added to its configuration.
    pub(crate) parameters: BTreeMap<String, String>,
    /// Whom it follows.
    pub(crate) follows: Option<ConnInfo>,
    /// How often its access rules were changed.
    changes: u32,
}

impl Server {
    /// A server without data.
    pub(crate) fn new() -> Self {
        Self {
            installation: Installation::find(None).expect("PostgreSQL"),
            folder: tempfile::tempdir().expect("a folder"),
            port: free_port(),
            postmaster: None,
            output: Arc::default(),
            parameters: BTreeMap::new(),
            follows: None,
            changes: 0,
        }
    }

    /// A running primary with its roles.
    pub(crate) async fn primary() -> Self {
        Self::primary_with(&[]).await
    }

    /// The same with parameters of its own.
    pub(crate) async fn primary_with(parameters: &[(&str, &str)]) -> Self {
        let mut server = Self::new();
        for (name, value) in parameters {
            let _ = server.parameters.insert((*name).into(), (*value).into());
        }
        let options = initdb::Options {
            scram: false,
            superuser: SUPERUSER.into(),
            password: None,
            locale: "C".into(),
            encoding: "UTF8".into(),
            data_checksums: false,
        };
        initdb::run(&server.installation, &server.pgdata(), &options)
            .await
            .expect("initdb");
        config_files::keep_base(&server.pgdata()).expect("base kept");
        server.start().await;
        let session = server.session().await;
        session
            .set_replication_role(REPLICATION_USER, Some(REPLICATION_PASSWORD), false, true)
            .await
            .expect("the replication role");
        server
    }

    /// A running standby of `source`, copied from it.
    pub(crate) async fn standby_of(source: &Self, name: &str) -> Self {
        let mut server = Self::new();
        source
            .session()
            .await
            .create_slot(name)
            .await
            .expect("a slot");
        let info = source.conninfo(name);
        server.copy(&info).await.expect("a copy");
        server.follows = Some(info);
        server.start().await;
        server
    }

    /// Copies from elsewhere.
    pub(crate) async fn copy(&self, source: &ConnInfo) -> Result<(), Error> {
        let name = source.application_name.clone();
        basebackup::run(
            &self.installation,
            &self.pgdata(),
            source,
            &name,
            LIMIT,
            |_| {},
        )
        .await
    }

    /// How another follows this one under a name.
    pub(crate) fn conninfo(&self, name: &str) -> ConnInfo {
        ConnInfo {
            application_name: name.into(),
            host: "127.0.0.1".into(),
            port: self.port.to_string(),
            user: REPLICATION_USER.into(),
            password: REPLICATION_PASSWORD.into(),
            tls: Tls::default(),
        }
    }

    pub(crate) fn pgdata(&self) -> PathBuf {
        self.folder.path().join("postgres")
    }

    pub(crate) fn target(&self) -> Target {
        Target {
            host: self.folder.path().display().to_string(),
            port: self.port,
            user: SUPERUSER.into(),
            password: None,
            tls: Tls::default(),
        }
    }

    /// Writes the configuration, as a keeper does.
    pub(crate) fn configure(&self) {
        let mut configuration = Configuration {
            parameters: self.parameters.clone(),
            include_base: true,
            access_rules: vec![
                format!("local all {SUPERUSER} trust"),
                format!("host replication {REPLICATION_USER} 127.0.0.1/32 md5"),
            ],
            ..Configuration::default()
        };
        for (name, value) in [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", self.port.to_string()),
            ("wal_retrieve_retry_interval", "100ms".to_owned()),
        ] {
            let _ = configuration.parameters.insert(name.into(), value);
        }
        if let Some(info) = &self.follows {
            configuration.follow(info, &info.application_name);
        }
        config_files::write(&self.pgdata(), &configuration).expect("configuration");
        config_files::set_standby(&self.pgdata(), self.follows.is_some()).expect("signal");
    }

    /// Writes its configuration with one more access rule, and waits until that is in force: it is
    /// known by its number among all such changes.
    #[allow(dead_code, reason = "not every test changes the rules")]
    pub(crate) async fn lets_in(&mut self, rule: &str) {
        self.changes += 1;
        let mark = format!("{}s", self.changes);
        let _ = self
            .parameters
            .insert("log_min_duration_statement".into(), mark.clone());
        self.configure();
        let mut rules = config_files::access_rules(&self.pgdata()).expect("rules");
        rules.push_str(rule);
        let rules: Vec<String> = rules.lines().map(str::to_owned).collect();
        config_files::write_access_rules(&self.pgdata(), &rules).expect("written");
        let postmaster = self.postmaster.as_ref().expect("a postmaster");
        postmaster.reload().expect("reloaded");
        let shown = || async {
            let seen = self.value("SHOW log_min_duration_statement").await;
            (seen == mark).then_some(())
        };
        eventually("the rules are in force", shown).await;
    }

    /// Starts it and waits until it answers.
    pub(crate) async fn start(&mut self) {
        self.configure();
        self.spawn();
        let target = self.target();
        eventually("the server answers", || async {
            Session::connect(&target, LIMIT).await.ok().map(|_| ())
        })
        .await;
    }

    /// Starts the postmaster only.
    pub(crate) fn spawn(&mut self) {
        let folder = self.folder.path().display().to_string();
        let settings = [("unix_socket_directories".to_owned(), folder)];
        let output = self.output.clone();
        let keep = move |line: String| output.lock().expect("output").push(line);
        let started = Postmaster::start(&self.installation, &self.pgdata(), &settings, keep);
        self.postmaster = Some(started.expect("a postmaster"));
    }

    pub(crate) async fn session(&self) -> Session {
        Session::connect(&self.target(), LIMIT)
            .await
            .expect("a session")
    }

    /// The first value of the first row.
    pub(crate) async fn value(&self, sql: &str) -> String {
        let rows = self.session().await.rows("test", sql).await.expect(sql);
        rows.into_iter()
            .flatten()
            .flatten()
            .next()
            .unwrap_or_default()
    }

    /// Waits until an observation is as wanted.
    pub(crate) async fn observed(
        &self,
        what: &str,
        wanted: impl Fn(&Observation) -> bool,
    ) -> Observation {
        let session = self.session().await;
        eventually(what, || async {
            session.observe().await.ok().filter(|seen| wanted(seen))
        })
        .await
    }

    pub(crate) async fn stop(&self, mode: StopMode) {
        let postmaster = self.postmaster.as_ref().expect("a postmaster");
        assert!(postmaster.stop(mode, LIMIT).await.expect("a stop"));
        assert!(postmaster.is_gone());
    }

    /// Everything it has said so far.
    pub(crate) fn said(&self) -> String {
        self.output.lock().expect("output").join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let end = std::time::Instant::now() + LIMIT;
        while std::time::Instant::now() < end {
            let left = data_dir::processes(&self.pgdata());
            if left.is_empty() {
                shared_memory::remove_leftovers();
                return;
            }
            for pid in left {
                send(pid, Signal::KILL);
            }
            std::thread::yield_now();
        }
    }
}

/// Sends a signal to a process that may be gone.
pub(crate) fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}
