//! `stolonctl dev`: a whole cluster on this machine, to try and to break.
//!
//! It starts this program's own daemons as processes, tells how to connect and what to kill, shows
//! what the cluster does, and stops everything at Ctrl-C. Started again it goes on with its data.

mod children;
mod client;
mod layout;
mod lock;
mod remains;
mod view;
mod words;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use stolon_core::time::Instant;
use stolon_daemons::runtime::clock;
use stolon_daemons::runtime::shutdown::Shutdown;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output;
use children::Children;
use client::{Client, Met};
use layout::Layout;
use view::View;

/// How long the cluster may take to come up.
const START_LIMIT: Duration = Duration::from_mins(3);
/// Time between two looks at the processes and the store.
const TICK: Duration = Duration::from_millis(200);

/// The command.
pub fn command() -> Command {
    Command::new("dev")
        .about("Run a whole cluster on this machine, to try and to break")
        .after_help(
            "Starts keepers, a sentinel and a proxy on a store in a file, shows how to connect and \
             what to kill, tells what happens, why, and how long a client could not write, and \
             stops all at Ctrl-C. Started again it continues with its data.\n\n\
             Examples:\n  stolonctl dev\n  stolonctl dev --keepers 2 --synchronous\n  \
             stolonctl dev --exec 'psql -c \"select 1\"'",
        )
        .arg(Arg::new("keepers").long("keepers").default_value("3").help("number of keepers, 1 to 9"))
        .arg(
            Arg::new("data-dir")
                .long("data-dir")
                .help(
                    "folder of everything; remove it to begin anew (default stolon-dev, or \
                     /var/lib/stolon-dev as root where --user may not go)",
                ),
        )
        .arg(
            Arg::new("synchronous")
                .long("synchronous")
                .action(ArgAction::SetTrue)
                .help("commits wait for a standby (when the cluster is made)"),
        )
        .arg(
            Arg::new("user")
                .long("user")
                .default_value("postgres")
                .help("as root: the user that the daemons run as, since PostgreSQL refuses root"),
        )
        .arg(Arg::new("exec").long("exec").help(
            "run this shell command when the cluster is up, with PGHOST, PGPORT, PGUSER, PGDATABASE \
             and PGPASSWORD set, then stop and end with its exit status",
        ))
}

/// Runs it.
pub fn main(own: &ArgMatches) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return crate::refuse(&format!("cannot start: {error}")),
    };
    let outcome = runtime.block_on(run(own));
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => crate::refuse(&error),
    }
}

async fn run(own: &ArgMatches) -> Result<ExitCode, String> {
    let text = |name: &str| own.get_one::<String>(name).cloned().unwrap_or_default();
    let keepers = text("keepers").parse().ok().filter(|n| (1..=9).contains(n));
    let keepers: usize = keepers.ok_or_else(|| {
        format!(
            "invalid argument {:?} for \"--keepers\" flag: it must be a number from 1 to 9",
            text("keepers")
        )
    })?;
    let mut ends = Ends::listen().map_err(|error| error.to_string())?;
    let layout = Layout::prepare(own.get_one::<String>("data-dir"), keepers, &text("user"))?;
    let mut children = Children::new(&layout);
    let is_new = children.initialise(own.get_flag("synchronous"))?;
    let diary = Diary::begin();
    say(&layout.describe(is_new, keepers));
    let store = stolon_store::open(&layout.store()).map_err(|error| error.to_string())?;
    let mut watch = Watch {
        view: View::new(store).await,
        client: Client::start(layout.client()),
        diary,
        layout: &layout,
        keepers,
        told: None,
        is_up: false,
    };
    children.start_all(keepers)?;
    let outcome = watch
        .run(&mut children, &mut ends, own.get_one("exec"))
        .await;
    say("stopping everything");
    drop(watch.client);
    children.stop_all();
    say("stopped; started again it goes on with its data");
    outcome
}

/// What ends a dev cluster: Ctrl-C, a signal, the end of the terminal.
struct Ends {
    shutdown: Shutdown,
    hang_up: Signal,
}

impl Ends {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            shutdown: Shutdown::on_signals()?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next look around; true: it is time to end.
    async fn within(&mut self, tick: Duration) -> bool {
        tokio::select! {
            () = self.shutdown.requested() => true,
            _ = self.hang_up.recv() => true,
            () = tokio::time::sleep(tick) => false,
        }
    }
}

/// What is written for the user, with the seconds since the beginning.
struct Diary {
    began: Instant,
}

impl Diary {
    fn begin() -> Self {
        Self {
            began: clock::now(),
        }
    }

    /// An event.
    fn note(&self, text: &str) {
        let seconds = clock::now().since(self.began).as_secs_f64();
        say(&format!("{seconds:>8.1}s  {text}"));
    }
}

/// Tells the user. When nobody reads the cluster runs on: it has other clients.
fn say(text: &str) {
    let _ = output::line(text);
}

/// A cluster that runs, with those who look at it.
struct Watch<'a> {
    view: View,
    client: Client,
    diary: Diary,
    layout: &'a Layout,
    keepers: usize,
    /// The primary that it was told how to break.
    told: Option<String>,
    is_up: bool,
}

impl Watch<'_> {
    async fn run(
        &mut self,
        children: &mut Children<'_>,
        ends: &mut Ends,
        command: Option<&String>,
    ) -> Result<ExitCode, String> {
        let limit = clock::now().after(START_LIMIT);
        let mut can_write = false;
        while !ends.within(TICK).await {
            let mut lines = children.revive();
            let news = self.view.news(self.is_up).await;
            lines.extend(news.lines);
            let met = self.client.news();
            can_write |= !met.is_empty();
            lines.extend(met.iter().map(in_words));
            for line in lines {
                self.diary.note(&line);
            }
            if !self.is_up && can_write && news.settled >= self.keepers {
                self.is_up = true;
                if let Some(command) = command {
                    return execute(command, self.layout);
                }
                say(&words::connect(self.layout));
            }
            if let Some(table) = news.table {
                say(&table);
            }
            if self.is_up && news.table_holds && news.settled >= self.keepers {
                self.tell_how_to_break(news.primary);
            }
            if !self.is_up && clock::now() > limit {
                return Err(format!(
                    "the cluster did not come up within {START_LIMIT:?}: look at {}",
                    self.layout.folder.join("log").display()
                ));
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The commands name the primary: they are told again when it is another, and when there are
    /// standbys again that can take over.
    fn tell_how_to_break(&mut self, primary: Option<String>) {
        if self.told != primary
            && let Some(primary) = primary
        {
            say(&words::break_it(self.layout, &primary));
            self.told = Some(primary);
        }
    }
}

/// What the client met, for the diary.
fn in_words(met: &Met) -> String {
    match met {
        Met::First => "client: the first write has come through".to_owned(),
        Met::Lost { why } => format!("client: CANNOT WRITE: {why}"),
        Met::Back { gap } => format!(
            "client: writes again, after {:.1} s without",
            gap.as_secs_f64()
        ),
    }
}

fn execute(command: &str, layout: &Layout) -> Result<ExitCode, String> {
    let status = std::process::Command::new("/bin/sh")
        .args(["-c", command])
        .envs(layout.connection())
        .env("STOLONCTL_CLUSTER_NAME", layout::CLUSTER)
        .env("STOLONCTL_STORE_BACKEND", "sqlite")
        .env("STOLONCTL_STORE_ENDPOINTS", layout.store_file())
        .status()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(crate::FAILED)))
}
