//! The sentinel's shell: it looks at the store, and writes what core decides.

pub mod config;
mod metrics;

use std::sync::Arc;

use stolon_core::model::history::{Decision, History};
use stolon_core::model::request::Request;
use stolon_core::model::{KeeperInfo, ProxyInfo, SentinelInfo, SentinelUid, wire};
use stolon_core::reason::Reason;
use stolon_core::sentinel::{Effect, Event, Look, Sentinel, Settings, WriteOutcome};
use stolon_core::time::{Instant, Timestamp};
use stolon_store::{Everything, Expected, Key, Revision, Store, Written};
use tokio::sync::mpsc;

use crate::config::{Error, VERSION};
use crate::document::understood;
use crate::runtime::http::Health;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::{clock, http, logging, names, reread};
use config::Config;

/// Runs a sentinel until `shutdown`.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    reread::outlive_hangup();
    let (mut registry, metrics) = metrics::registry(&config.common.cluster_name);
    let store = crate::runtime::store::open(&config.common.store, &mut registry)?;
    let uid = names::short();
    tracing::info!(
        uid,
        version = VERSION,
        store = store.describe(),
        "sentinel starting"
    );
    let settings = Settings {
        uid: SentinelUid::from(uid.as_str()),
        version: VERSION.to_owned(),
        initial_spec: config.initial_spec.clone(),
        most_failovers: config.most_failovers,
    };
    let health = Health::default();
    http::serve(
        config.common.metrics_listen_address,
        registry,
        health.clone(),
    )
    .await?;
    let (events, inbox) = mpsc::channel(64);
    let sentinel = Sentinel::new(settings);
    let shell = Shell {
        sentinel,
        store,
        events,
        metrics,
        health,
        uid,
    };
    shell.run(inbox, shutdown).await;
    Ok(())
}

struct Shell {
    sentinel: Sentinel,
    store: Arc<dyn Store>,
    events: mpsc::Sender<Event>,
    metrics: metrics::Metrics,
    health: Health,
    uid: String,
}

impl Shell {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>, shutdown: Shutdown) {
        let mut watch = self.store.watch();
        let mut leadership = self.store.lead(&self.uid);
        let mut wake_at: Option<Instant> = None;
        let mut event = Event::Wake;
        loop {
            self.health.turn();
            if matches!(event, Event::Looked(_)) {
                self.metrics.note_check();
                self.health.set_ready(None);
            } else if matches!(event, Event::LookFailed) {
                self.health
                    .set_ready(Some("the store cannot be read".to_owned()));
            }
            for effect in self.sentinel.handle(clock::now(), event) {
                if let Effect::WakeAt(at) = effect {
                    wake_at = Some(at);
                } else {
                    self.carry_out(effect);
                }
            }
            // Leadership may end by time alone: it is looked at on every turn.
            if leadership.is_leader() != self.sentinel.leading() {
                self.metrics.note_leading(leadership.is_leader());
                event = Event::Leading(leadership.is_leader());
                continue;
            }
            self.health.rests_until(wake_at);
            event = tokio::select! {
                () = shutdown.requested() => break,
                Some(event) = inbox.recv() => event,
                () = leadership.changed() => Event::Leading(leadership.is_leader()),
                () = watch.changed() => Event::Wake,
                () = clock::sleep_until(wake_at) => { wake_at = None; Event::Wake }
            };
        }
        tracing::info!("stopping stolon sentinel");
        leadership.resign().await;
        let _ = self
            .store
            .delete(&Key::SentinelInfo(self.uid.clone()))
            .await;
        logging::flush();
    }

    fn carry_out(&mut self, effect: Effect) {
        let (events, store) = (self.events.clone(), self.store.clone());
        match effect {
            Effect::Log(reason) => logging::log_reason(&reason),
            Effect::Look => {
                tokio::spawn(async move {
                    let event = match look(store.as_ref()).await {
                        Ok(look) => Event::Looked(Box::new(look)),
                        Err(error) => {
                            // The store tells of its own failures, once.
                            if matches!(error, stolon_store::Error::Config(_)) {
                                tracing::warn!(%error, "cannot look at the cluster");
                            }
                            Event::LookFailed
                        }
                    };
                    let _ = events.send(event).await;
                });
            }
            Effect::Write { expected, data } => {
                tokio::spawn(async move {
                    let outcome = match wire::write(&*data) {
                        Ok(bytes) => write(store.as_ref(), expected, &bytes).await,
                        Err(error) => {
                            tracing::error!(%error, "cannot write the cluster data");
                            WriteOutcome::Refused
                        }
                    };
                    let _ = events.send(Event::Wrote(outcome)).await;
                });
            }
            Effect::Publish(info, ttl) => {
                let key = Key::SentinelInfo(self.uid.clone());
                tokio::spawn(async move {
                    let Ok(bytes) = wire::write(&info) else {
                        return;
                    };
                    let sent_at = clock::now();
                    if let Err(error) = store.publish(&key, &bytes, ttl).await {
                        tracing::debug!(%error, "cannot publish the sentinel's state");
                        let _ = events.send(Event::PublishFailed(sent_at)).await;
                    }
                });
            }
            Effect::Record { at, reasons } => {
                let uid = self.uid.clone();
                tokio::spawn(async move { record(store.as_ref(), at, &uid, reasons).await });
            }
            // The loop keeps it.
            Effect::WakeAt(_) => {}
        }
    }
}

/// Reads everything there is to decide by.
async fn look(store: &dyn Store) -> Result<Look, stolon_store::Error> {
    let sent_at = clock::now();
    let Everything {
        data,
        keepers,
        proxies,
        sentinels,
        requests,
    } = store.read_all().await?;
    let revision = data.as_ref().map(|entry| entry.revision.0);
    let data = match data
        .as_ref()
        .map(|entry| wire::read_cluster_data(&entry.value))
    {
        None => None,
        Some(Ok(data)) => data,
        Some(Err(error)) => {
            return Err(stolon_store::Error::Config(format!(
                "the cluster data cannot be understood: {error}"
            )));
        }
    };
    Ok(Look {
        sent_at,
        wall: clock::wall(),
        entropy: names::entropy(),
        revision,
        data: data.map(Arc::new),
        keepers: understood::<KeeperInfo>(keepers),
        proxies: understood::<ProxyInfo>(proxies),
        sentinels: understood::<SentinelInfo>(sentinels),
        requests: understood::<Request>(requests),
    })
}

async fn write(store: &dyn Store, expected: Option<u64>, bytes: &[u8]) -> WriteOutcome {
    let expected = expected.map_or(Expected::Absent, |revision| {
        Expected::At(Revision(revision))
    });
    match store
        .compare_and_swap(&Key::ClusterData, expected, bytes)
        .await
    {
        Written::Yes(_) => WriteOutcome::Stored,
        Written::Conflict => WriteOutcome::Conflict,
        Written::No(error) => {
            tracing::warn!(%error, "cannot write the cluster data");
            WriteOutcome::Refused
        }
        Written::Unknown(error) => {
            tracing::warn!(%error, "no answer to the write of the cluster data");
            WriteOutcome::Unknown
        }
    }
}

/// Appends to the history. It is told to people and read by no decision: a lost entry is a pity.
async fn record(store: &dyn Store, at: Timestamp, uid: &str, reasons: Vec<Reason>) {
    let mut history = match store.get(&Key::History).await {
        Ok(Some(entry)) => wire::read::<History>(&entry.value).unwrap_or_default(),
        Ok(None) => History::default(),
        Err(_) => return,
    };
    history.append(Decision {
        at,
        sentinel: SentinelUid::from(uid),
        reasons,
    });
    if let Ok(bytes) = history.to_bytes() {
        let _ = store.put(&Key::History, &bytes).await;
    }
}
