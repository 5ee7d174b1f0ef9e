//! The proxy's shell: one task owns the decisions, a relay carries the clients.

pub mod config;
pub(crate) mod greeting;
pub(crate) mod introduction;
mod metrics;
mod relay;

use std::sync::Arc;
use std::time::Duration;

use stolon_core::model::{ProxyUid, wire};
use stolon_core::proxy::{Effect, Event, Proxy, Settings};
use stolon_core::time::Instant;
use stolon_store::{Key, Store};
use tokio::sync::mpsc;

use crate::config::{Error, VERSION};
use crate::document;
use crate::runtime::http::Health;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::{clock, files, http, logging, names, reread};
use config::Config;
use relay::Relay;

/// How long statements that are under way may take to end when the proxy stops. It goes on with its
/// checks in that time, and closes earlier when it must.
const GRACE: Duration = Duration::from_secs(5);
/// How long a stopping proxy may take to remove itself from the store.
const FAREWELL: Duration = Duration::from_secs(2);

/// Runs a proxy until `shutdown`.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    reread::outlive_hangup();
    let (mut registry, metrics) = metrics::registry(&config.common.cluster_name);
    let store = crate::runtime::store::open(&config.common.store, &mut registry)?;
    let uid = names::short();
    tracing::info!(
        uid,
        version = VERSION,
        store = store.describe(),
        "proxy starting"
    );
    let settings = Settings {
        uid: ProxyUid::from(uid.as_str()),
        version: VERSION.to_owned(),
        stop_listening: config.stop_listening,
    };
    let health = Health::default();
    http::serve(
        config.common.metrics_listen_address,
        registry,
        health.clone(),
    )
    .await?;
    let relay = Relay::new(&config, metrics.clone(), files::raise_limit());
    let (events, inbox) = mpsc::channel(64);
    let proxy = Proxy::new(settings);
    Shell {
        proxy,
        relay,
        store,
        events,
        metrics,
        health,
        uid,
    }
    .run(inbox, shutdown)
    .await;
    Ok(())
}

struct Shell {
    proxy: Proxy,
    relay: Relay,
    store: Arc<dyn Store>,
    events: mpsc::Sender<Event>,
    metrics: metrics::Metrics,
    health: Health,
    uid: String,
}

impl Shell {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>, shutdown: Shutdown) {
        let mut watch = self.store.watch();
        let mut wake_at: Option<Instant> = None;
        let mut event = Event::StoreChanged;
        // Routes that are set and not yet answered for.
        let mut routes_set = 0_u32;
        let mut stop_at: Option<Instant> = None;
        loop {
            self.health.turn();
            for effect in self.proxy.handle(clock::now(), event) {
                match effect {
                    Effect::WakeAt(at) => wake_at = Some(at),
                    // Returns when what it forbids is gone: then core may acknowledge it.
                    Effect::Route(route) => {
                        self.relay.set_route(&route);
                        routes_set += 1;
                    }
                    effect => self.carry_out(effect),
                }
            }
            self.metrics.update(&self.proxy);
            let waits = self.proxy.waits_to_be_enabled();
            self.health.set_ready(match self.proxy.good_at() {
                _ if stop_at.is_some() => Some("stopping".to_owned()),
                None => Some("no check of the cluster data succeeded yet".to_owned()),
                Some(_) if waits => Some("not enabled by a sentinel".to_owned()),
                Some(_) => None,
            });
            if routes_set > 0 {
                routes_set -= 1;
                event = Event::RouteSet;
                continue;
            }
            self.health.rests_until(wake_at);
            event = tokio::select! {
                // Time first: a flood of events must not keep a deadline waiting.
                biased;
                () = shutdown.requested(), if stop_at.is_none() => {
                    tracing::info!("stopping stolon proxy");
                    self.relay.drain();
                    stop_at = Some(clock::now().after(GRACE));
                    Event::Wake
                }
                () = clock::sleep_until(stop_at), if stop_at.is_some() => break,
                () = self.relay.drained(), if stop_at.is_some() => break,
                () = clock::sleep_until(wake_at) => { wake_at = None; Event::Wake }
                Some(event) = inbox.recv() => event,
                () = watch.changed() => Event::StoreChanged,
            };
        }
        self.relay.close("the proxy is stopping");
        // Only now: the sentinel waits for a proxy that it knows of.
        let info = Key::ProxyInfo(self.uid.clone());
        let _ = tokio::time::timeout(FAREWELL, self.store.delete(&info)).await;
        logging::flush();
    }

    fn carry_out(&mut self, effect: Effect) {
        let (events, store) = (self.events.clone(), self.store.clone());
        match effect {
            Effect::Log(reason) => logging::log_reason(&reason),
            Effect::Listen(listen) => self.relay.listen(listen),
            Effect::Read => {
                tokio::spawn(async move {
                    let _ = events.send(read(store.as_ref()).await).await;
                });
            }
            Effect::Publish(mut info, ttl) => {
                info.info_uid = names::info_uid();
                let key = Key::ProxyInfo(self.uid.clone());
                tokio::spawn(async move {
                    let stored = match wire::write(&*info) {
                        Ok(bytes) => store.publish(&key, &bytes, ttl).await,
                        Err(error) => Err(stolon_store::Error::Config(error.to_string())),
                    };
                    if let Err(error) = &stored {
                        tracing::debug!(%error, "cannot publish the proxy's state");
                    }
                    let _ = events.send(Event::Published(stored.is_ok())).await;
                });
            }
            // The loop keeps them.
            Effect::WakeAt(_) | Effect::Route(_) => {}
        }
    }
}

async fn read(store: &dyn Store) -> Event {
    document::read(store)
        .await
        .map_or(Event::ReadFailed, |found| Event::Document {
            sent_at: found.sent_at,
            revision: found.revision,
            data: found.data,
        })
}

#[cfg(test)]
mod tests;
