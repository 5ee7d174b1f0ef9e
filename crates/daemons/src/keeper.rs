//! The keeper's shell: one task owns the decisions, others bring it events.

mod access;
mod apply;
pub mod config;
mod copy;
mod disk;
mod instance;
pub(crate) mod local;
mod metrics;
mod observe;
mod parameters;
mod passwords;
mod ready;
mod replaced;
mod requests;
mod restore;
mod rewind;
mod served;
mod source_outside;
mod steps;
mod take_over;

use std::sync::Arc;
use std::time::Duration;

use stolon_core::keeper::decide::Patience;
use stolon_core::keeper::facts::Process;
use stolon_core::keeper::{Effect, Event, Keeper, Settings};
use stolon_core::model::{EffectiveSpec, KeeperUid, wire};
use stolon_core::time::Instant;
use stolon_postgres::Installation;
use stolon_store::{Key, Store};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::config::VERSION;
use crate::document;
use crate::runtime::http::Health;
use crate::runtime::reread::Reread;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::{clock, http, logging, names};
use crate::settings::SettingsReader;
use config::Config;
use instance::Instance;
use local::LocalState;
use steps::Steps;

/// How often the first process of a container looks for orphans to reap.
const REAP_EVERY: Duration = Duration::from_secs(5);

/// Why a keeper cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PostgreSQL's programs, files or processes.
    #[error(transparent)]
    Postgres(#[from] stolon_postgres::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] stolon_store::Error),
    /// The data directory.
    #[error("{0}")]
    DataDir(String),
    /// A file with a password.
    #[error("{0}")]
    Passwords(String),
    /// The handler of a signal.
    #[error("cannot hear signals: {0}")]
    Signals(std::io::Error),
    /// The metrics address.
    #[error(transparent)]
    Metrics(#[from] http::Error),
}

/// Runs a keeper until `shutdown`.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    if rustix::process::geteuid().is_root() {
        return Err(Error::DataDir(
            "cannot run as root, since PostgreSQL refuses to: start the keeper as an unprivileged \
             user that owns --data-dir, for example with runuser -u postgres"
                .to_owned(),
        ));
    }
    config.tls.check()?;
    let installation = Installation::find(config.pg_bin_path.as_deref())?;
    let local = LocalState::open(&config)?;
    let (mut registry, metrics) = metrics::registry(&config.common.cluster_name);
    let store = crate::runtime::store::open(&config.common.store, &mut registry)?;
    stolon_postgres::process::become_subreaper()?;
    let uid = local.keeper_uid();
    let settings = settings(&config, &uid, &installation);
    tracing::info!(
        uid,
        version = VERSION,
        store = store.describe(),
        "keeper starting"
    );
    let instance = Arc::new(Instance::new(config.clone(), installation, local));
    let (events, inbox) = mpsc::channel(256);
    instance.empty_trash();
    let process = instance.find_process()?;
    instance.tell_of_the_end(&events);
    let disk = instance.try_inspect(process.is_running()).await?;
    let keeper = Keeper::new(settings, clock::now(), disk, process);
    let health = Health::default();
    http::serve(
        config.common.metrics_listen_address,
        registry,
        health.clone(),
    )
    .await?;
    let shell = Shell {
        keeper,
        steps: Steps::new(instance.clone(), events.clone()),
        instance,
        store,
        settings: Arc::default(),
        events,
        metrics,
        health,
        readiness: ready::Readiness::default(),
        uid,
        process,
    };
    shell.run(inbox, shutdown).await
}

fn settings(config: &Config, uid: &str, installation: &Installation) -> Settings {
    Settings {
        uid: KeeperUid::from(uid),
        boot_uuid: names::boot_uuid(),
        version: VERSION.to_owned(),
        postgres_version: installation.version(),
        listen_address: config.listen_address.clone(),
        port: config.port,
        advertise_address: config.advertise_address.clone(),
        advertise_port: config.advertise_port,
        socket_folder: config.socket_folder.display().to_string(),
        superuser: (
            config.superuser.name.clone(),
            config.superuser.method.clone(),
        ),
        replication_user: (
            config.replication_user.name.clone(),
            config.replication_user.method.clone(),
        ),
        requires_tls: config.tls.mode.is_required(),
        can_be_master: config.can_be_master,
        can_be_synchronous_replica: config.can_be_synchronous_replica,
    }
}

struct Shell {
    keeper: Keeper,
    instance: Arc<Instance>,
    store: Arc<dyn Store>,
    settings: Arc<SettingsReader>,
    events: mpsc::Sender<Event>,
    metrics: metrics::Metrics,
    health: Health,
    readiness: ready::Readiness,
    uid: String,
    process: Process,
    steps: Steps,
}

impl Shell {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Event>,
        shutdown: Shutdown,
    ) -> Result<(), Error> {
        if self.process == Process::Adopted {
            tracing::info!("taking over the running postgres instance");
        }
        let mut watch = self.store.watch();
        let mut reread = Reread::on_hangup().map_err(Error::Signals)?;
        let mut wake_at: Option<Instant> = None;
        let mut reap = tokio::time::interval(REAP_EVERY);
        let mut orphans = Vec::new();
        let mut event = Event::StoreChanged;
        loop {
            self.health.turn();
            let effects = self.keeper.handle(clock::now(), event);
            self.note_cluster();
            for effect in effects {
                if let Effect::WakeAt(at) = effect {
                    wake_at = Some(at);
                } else {
                    self.carry_out(effect);
                }
            }
            self.metrics.update(&self.keeper);
            let not_ready = self.readiness.judge(clock::now(), &self.keeper);
            self.health.set_ready(not_ready);
            event = tokio::select! {
                () = shutdown.requested() => break,
                Some(event) = inbox.recv() => event,
                () = watch.changed() => Event::StoreChanged,
                () = clock::sleep_until(wake_at) => { wake_at = None; Event::Wake }
                () = reread.requested() => {
                    if self.instance.reread_passwords() { Event::PasswordsChanged } else { Event::Wake }
                }
                _ = reap.tick() => {
                    stolon_postgres::process::reap_orphans(&mut orphans);
                    Event::Wake
                }
            };
        }
        tracing::info!("stopping: stopping postgres first");
        let started = clock::now();
        let patience = if self.steps.end().await {
            Patience::Long
        } else {
            // On a disk that hangs no checkpoint ends.
            Patience::Short
        };
        self.instance.shut_down(patience).await;
        self.metrics.set_shutdown(clock::now().since(started));
        logging::flush();
        Ok(())
    }

    /// What a publication announces is on disk before.
    fn note_cluster(&self) {
        let document = self.keeper.document();
        let Some(cluster) = document.and_then(|document| document.data.cluster.as_ref()) else {
            return;
        };
        if let Err(error) = self.instance.local.note_cluster(cluster.uid.as_str()) {
            tracing::error!(%error, "cannot note the cluster this keeper belongs to");
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let events = self.events.clone();
        match effect {
            Effect::Log(reason) => logging::log_reason(&reason),
            Effect::Read => {
                let (store, settings) = (self.store.clone(), self.settings.clone());
                tokio::spawn(async move {
                    let event = read(store.as_ref(), &settings).await;
                    send(&events, event).await;
                });
            }
            Effect::Observe => {
                let (instance, interval) = (self.instance.clone(), self.spec().sleep_interval);
                let runtime = Handle::current();
                // It reads files too, and on a disk that hangs none of them answers.
                tokio::task::spawn_blocking(move || {
                    runtime.block_on(async {
                        let health = instance.observe(interval).await;
                        send(&events, Event::Observed(health)).await;
                    });
                });
            }
            Effect::Run(step) => {
                let spec = self.spec();
                // Never less than a query of a step, and the look that it waits for, may take.
                let least = observe::longest(spec.sleep_interval) + apply::QUERY_LIMIT;
                let limit = spec.convergence_timeout.max(least);
                self.steps.begin(*step, limit);
            }
            Effect::Publish(mut info, ttl) => {
                info.info_uid = names::info_uid();
                let (store, key) = (self.store.clone(), Key::KeeperInfo(self.uid.clone()));
                tokio::spawn(async move {
                    match wire::write(&*info) {
                        Ok(bytes) => {
                            if let Err(error) = store.publish(&key, &bytes, ttl).await {
                                tracing::debug!(%error, "cannot publish the keeper's state");
                            }
                        }
                        Err(error) => tracing::error!(%error, "cannot write the keeper's state"),
                    }
                    send(&events, Event::Published).await;
                });
            }
            Effect::Ask { peers } => {
                let store = self.store.clone();
                tokio::spawn(async move {
                    let event = requests::ask(store.as_ref(), peers).await;
                    send(&events, event).await;
                });
            }
            Effect::Note { request, progress } => {
                let (store, keeper) = (self.store.clone(), self.uid.clone());
                tokio::spawn(async move {
                    let stored = requests::note(store.as_ref(), &request, &keeper, &progress).await;
                    send(&events, Event::Noted(stored)).await;
                });
            }
            Effect::Cancel => self.steps.cancel(),
            // The loop keeps it.
            Effect::WakeAt(_) => {}
        }
    }

    fn spec(&self) -> EffectiveSpec {
        let cluster = self
            .keeper
            .document()
            .and_then(|document| document.data.cluster.as_ref());
        let spec = cluster
            .and_then(|cluster| cluster.spec.clone())
            .unwrap_or_default();
        spec.effective()
    }
}

async fn send(events: &mpsc::Sender<Event>, event: Event) {
    // A closed inbox is a keeper that has stopped.
    let _ = events.send(event).await;
}

async fn read(store: &dyn Store, settings: &SettingsReader) -> Event {
    // Both at once: nothing of the document waits for the settings but their own slowness.
    let (found, settings) = tokio::join!(document::read(store), settings.read(store));
    found.map_or(Event::ReadFailed, |found| Event::Document {
        sent_at: found.sent_at,
        revision: found.revision,
        data: found.data,
        settings,
    })
}
