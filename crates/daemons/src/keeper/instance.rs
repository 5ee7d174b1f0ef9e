//! The keeper's hands: its PostgreSQL instance with everything needed to look at it and change it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stolon_core::keeper::Event;
use stolon_core::keeper::decide::{Patience, lets_users_in};
use stolon_core::keeper::facts::{Content, Control, Disk, Process};
use stolon_core::model::DbUid;
use stolon_postgres::controldata::{self, ClusterState};
use stolon_postgres::process::{Postmaster, StopMode};
use stolon_postgres::query::{Session, Target};
use stolon_postgres::{Installation, config_files, data_dir, history};
use tokio::sync::mpsc;

use super::Error;
use super::access::Access;
use super::config::Config;
use super::disk::DiskProbe;
use super::local::LocalState;
use super::observe::Looks;
use super::parameters::Checked;
use super::passwords::Passwords;
use super::source_outside::SourceOutside;

/// How long a fast stop may take before what is left is stopped at once.
pub(super) const FAST_STOP_LIMIT: Duration = Duration::from_mins(5);
/// The longest a checkpoint before a restart may take.
const CHECKPOINT_LIMIT: Duration = Duration::from_mins(10);
/// The same for an instance that nothing may wait for.
const SHORT_STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long a stop without a checkpoint may take before what is left is killed.
const IMMEDIATE_STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long a look may have the session, before an instance is stopped without its end.
const SESSION_LIMIT: Duration = Duration::from_secs(1);
/// Pause before another try to look at data that could not be looked at.
const INSPECT_PAUSE: Duration = Duration::from_secs(1);
/// How often a slow stop is told of.
const STOP_PROGRESS: Duration = Duration::from_secs(10);

/// The instance.
pub(super) struct Instance {
    pub(super) config: Config,
    pub(super) installation: Installation,
    pub(super) local: LocalState,
    pub(super) passwords: Passwords,
    postmaster: Mutex<Option<Arc<Postmaster>>>,
    /// The persistent superuser connection.
    pub(super) session: tokio::sync::Mutex<Option<Session>>,
    pub(super) looks: Mutex<Looks>,
    pub(super) checked: Mutex<Checked>,
    pub(super) access: Mutex<Access>,
    pub(super) disk: DiskProbe,
    /// The server outside that it follows.
    pub(super) source: SourceOutside,
    /// What its WAL receiver complained of last.
    pub(super) stream_error: Arc<Mutex<String>>,
    /// The data at rest as they were last seen.
    last_disk: Mutex<Disk>,
}

/// What keeps the disks under the data, or under their WAL, from taking more.
fn trouble(pgdata: &Path) -> String {
    let folder = pgdata.parent().unwrap_or(pgdata);
    let places = [folder.to_owned(), pgdata.join("pg_wal")];
    let mut found = places.iter().map(|place| data_dir::trouble(place));
    found.find(|words| !words.is_empty()).unwrap_or_default()
}

impl Instance {
    pub(super) fn new(config: Config, installation: Installation, local: LocalState) -> Self {
        Self {
            passwords: Passwords::new(&config),
            disk: DiskProbe::new(&config.data_dir),
            config,
            installation,
            local,
            postmaster: Mutex::new(None),
            session: tokio::sync::Mutex::new(None),
            looks: Mutex::new(Looks::default()),
            checked: Mutex::default(),
            access: Mutex::default(),
            source: SourceOutside::default(),
            stream_error: Arc::default(),
            last_disk: Mutex::default(),
        }
    }

    /// What runs on PGDATA at the keeper's start; a postmaster is taken over.
    pub(super) fn find_process(&self) -> Result<Process, Error> {
        let pgdata = self.local.pgdata();
        if let Some(postmaster) = Postmaster::adopt(&pgdata)? {
            self.take(postmaster);
            return Ok(Process::Adopted);
        }
        let left = data_dir::processes(&pgdata).is_empty();
        Ok(if left {
            Process::None
        } else {
            Process::Leftovers
        })
    }

    /// Makes a postmaster the present one.
    pub(super) fn take(&self, postmaster: Postmaster) {
        *self.lock_postmaster() = Some(Arc::new(postmaster));
    }

    /// Makes the end of the present postmaster an event, unless another one is the present one by
    /// then.
    pub(super) fn tell_of_the_end(self: &Arc<Self>, events: &mpsc::Sender<Event>) {
        let Some(postmaster) = self.lock_postmaster().clone() else {
            return;
        };
        let (instance, events, mut end) = (self.clone(), events.clone(), postmaster.end());
        tokio::spawn(async move {
            if end.wait_for(|gone| *gone).await.is_err() {
                return;
            }
            let present = instance.lock_postmaster().clone();
            if present.is_some_and(|present| Arc::ptr_eq(&present, &postmaster)) {
                let _ = events.send(Event::PostmasterGone).await;
            }
        });
    }

    fn lock_postmaster(&self) -> std::sync::MutexGuard<'_, Option<Arc<Postmaster>>> {
        self.postmaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The running postmaster.
    pub(super) fn postmaster(&self) -> Option<Arc<Postmaster>> {
        self.lock_postmaster()
            .clone()
            .filter(|postmaster| !postmaster.is_gone())
    }

    /// How the instance is reached over its socket.
    pub(super) fn target(&self) -> Target {
        Target {
            host: self.config.socket_folder.display().to_string(),
            port: self.config.port,
            user: self.config.superuser.name.clone(),
            password: self.passwords.superuser(),
            tls: self.config.tls.clone(),
        }
    }

    /// Reads the passwords again, and says whether one changed.
    pub(super) fn reread_passwords(&self) -> bool {
        match self.passwords.reread(&self.config) {
            Ok(changed) => {
                tracing::info!(changed, "the passwords were read again");
                changed
            }
            Err(error) => {
                tracing::error!(%error, "the passwords stay as they were");
                false
            }
        }
    }

    /// Looks at the data at rest, until it can: on what cannot be seen nothing is decided. Of data
    /// in use what was last seen still holds, and an instance that runs must always be stoppable.
    pub(super) async fn inspect(&self) -> Disk {
        loop {
            let running = self.postmaster().is_some();
            match self.try_inspect(running).await {
                Ok(disk) => return disk,
                Err(error) if running => {
                    tracing::error!(%error, "cannot look at the data");
                    return self.last_inspected();
                }
                Err(error) => tracing::error!(%error, "waiting to be able to look at the data"),
            }
            tokio::time::sleep(INSPECT_PAUSE).await;
        }
    }

    /// The data of a running instance, as they were last seen.
    pub(super) fn last_inspected(&self) -> Disk {
        let last = self.last_disk.lock();
        let last = last.unwrap_or_else(PoisonError::into_inner).clone();
        Disk {
            control: None,
            ..last
        }
    }

    /// Looks at the data at rest.
    pub(super) async fn try_inspect(&self, running: bool) -> Result<Disk, Error> {
        let (pgdata, beside) = (self.local.pgdata(), self.local.beside());
        let content = match data_dir::content(&pgdata)? {
            data_dir::Content::Nothing => Content::Nothing,
            data_dir::Content::Cluster => Content::Cluster,
            data_dir::Content::Broken => Content::Broken,
        };
        let rules = std::fs::read_to_string(pgdata.join("pg_hba.conf")).unwrap_or_default();
        let rules: Vec<String> = rules.lines().map(str::to_owned).collect();
        let users = (
            &self.config.superuser.name,
            &self.config.replication_user.name,
        );
        let is_beside = data_dir::exists(&beside)?;
        let is_new = self.is_new_beside()?;
        let beside = data_dir::identity(&beside)?
            .filter(|_| is_new)
            .map(DbUid::new);
        let disk = Disk {
            state: self.local.db_state()?,
            content,
            identity: data_dir::identity(&pgdata)?.map(DbUid::new),
            beside: is_beside.then(|| beside.unwrap_or_default()),
            control: if running || content != Content::Cluster {
                None
            } else {
                self.control().await
            },
            recovery_signal: config_files::is_recovery(&pgdata)?,
            of_other_cluster: self.is_of_other_cluster(&pgdata)?,
            standby_signal: config_files::is_standby(&pgdata)?,
            gate_was_open: lets_users_in(&rules, users.0, users.1),
            trouble: trouble(&pgdata),
        };
        let last = self.last_disk.lock();
        last.unwrap_or_else(PoisonError::into_inner)
            .clone_from(&disk);
        Ok(disk)
    }

    async fn control(&self) -> Option<Control> {
        let pgdata = self.local.pgdata();
        match controldata::read(&self.installation, &pgdata).await {
            Ok(data) => Some(Control {
                system_id: data.system_id,
                shut_down: data.state == ClusterState::ShutDown,
                shut_down_in_recovery: data.state == ClusterState::ShutDownInRecovery,
                in_archive_recovery: data.state == ClusterState::InRecovery,
                logs_all_changes: data.checksums || data.wal_log_hints,
                checkpoint: data.checkpoint,
                timeline: data.timeline.max(data.min_recovery_timeline),
                min_recovery: data.min_recovery,
                history: history::read(&pgdata, data.timeline.max(data.min_recovery_timeline)),
                least_parameters: data.least_parameters,
            }),
            Err(error) => {
                tracing::warn!(%error, "cannot read the control data");
                None
            }
        }
    }

    /// Stops the instance: fast, at once when that takes too long, and by force when it cannot hear.
    pub(super) async fn stop(&self, patience: Patience) -> Result<(), stolon_postgres::Error> {
        self.end_session().await;
        let Some(postmaster) = self.postmaster() else {
            return Ok(());
        };
        let limit = match patience {
            Patience::Long => FAST_STOP_LIMIT,
            Patience::Short => SHORT_STOP_LIMIT,
        };
        let mut waited = Duration::ZERO;
        while waited < limit && !postmaster.is_frozen() {
            if postmaster.stop(StopMode::Fast, STOP_PROGRESS).await? {
                return Ok(());
            }
            waited += STOP_PROGRESS;
            tracing::warn!(?waited, "postgres is still stopping");
        }
        if postmaster.is_frozen() {
            tracing::warn!("the postmaster is suspended and hears no signal: killing it");
        } else {
            tracing::warn!("stopping postgres at once: its next start will recover");
            let mode = StopMode::Immediate;
            if postmaster.stop(mode, IMMEDIATE_STOP_LIMIT).await? {
                return Ok(());
            }
            tracing::warn!("postgres does not stop: killing it");
        }
        stolon_postgres::process::kill_all(&self.local.pgdata()).await
    }

    /// Ends the keeper's own session: it would be told to end anyway, and so that is not seen as an error.
    /// A look that hangs may hold it, and must not hold a stop.
    pub(super) async fn end_session(&self) {
        if let Ok(mut session) = tokio::time::timeout(SESSION_LIMIT, self.session.lock()).await {
            *session = None;
        }
    }

    /// Writes out what the stop would have to, while clients are still served. Without it the stop takes
    /// longer, and is no less clean.
    pub(super) async fn checkpoint(&self) {
        tracing::info!("writing a checkpoint before the restart");
        let limit = CHECKPOINT_LIMIT;
        let done = async {
            let session = Session::connect(&self.target(), limit).await?;
            session.checkpoint().await
        };
        if let Err(error) = done.await {
            tracing::warn!(%error, "no checkpoint before the restart");
        }
    }

    /// Stops the instance because the keeper stops.
    pub(super) async fn shut_down(&self, patience: Patience) {
        if let Err(error) = self.stop(patience).await {
            tracing::error!(%error, "failed to stop postgres");
        }
        if let Err(error) = stolon_postgres::process::kill_all(&self.local.pgdata()).await {
            tracing::error!(%error, "processes of postgres are left");
        }
    }
}
