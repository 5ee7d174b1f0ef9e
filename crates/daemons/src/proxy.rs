//! The proxy's shell: one task owns the decisions, a relay carries the clients.

pub mod config;
pub(crate) mod greeting;
pub(crate) mod introduction;
mod leaving;
mod metrics;
mod relay;
mod scraped;
pub mod tls;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use stolon_core::model::{ProxyUid, wire};
use stolon_core::proxy::{Effect, Event, Proxy, Reports, Route, Settings};
use stolon_core::time::Instant;
use stolon_store::{Backend, Folder, Key, Store};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{Error, VERSION};
use crate::document;
use crate::runtime::http::Health;
use crate::runtime::passed;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::succession::Predecessor;
use crate::runtime::{clock, files, logging, names, notify, reread};
use config::Config;
use leaving::Stage;
use relay::Relay;
use scraped::Scraped;
use tls::Termination;
use upgrade::{News, Upgrade};

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
        reads: config.reading.as_ref().map(|reading| reading.max_lag),
    };
    let tls = config.tls.as_ref().map(Termination::load).transpose()?;
    let tls = tls.map(Arc::new);
    let health = Health::default();
    let upgrade = Upgrade::new();
    let (predecessor, passed) = match Predecessor::of_this_process()? {
        Some((predecessor, sockets)) => (Some(predecessor), sockets),
        None => (None, passed::by_manager()?),
    };
    let (for_clients, for_metrics) = upgrade::sorted(passed);
    let mut scraped = Scraped::begin(&config, for_metrics, registry, health.clone()).await?;
    if let Some(scraped) = scraped.as_mut().filter(|_| predecessor.is_none()) {
        scraped.serve();
    }
    let mut relay = Relay::new(&config, &metrics, files::raise_limit()).map_err(Error::Relay)?;
    relay.give(for_clients);
    if let Some(tls) = &tls {
        relay.terminate(tls.clone());
    }
    let _reread = AbortOnDropHandle::new(tokio::spawn(tls::follow(tls)));
    let (events, inbox) = mpsc::channel(64);
    let proxy = Proxy::new(settings);
    Shell {
        proxy,
        relay,
        store,
        store_backend: config.common.store.backend,
        events,
        shown: metrics::Shown::new(metrics),
        health,
        uid,
        stage: Stage::Serving,
        drain_timeout: config.drain_timeout,
        upgrade_drain_timeout: config.upgrade_drain_timeout,
        upgrade,
        predecessor,
        listen: None,
        scraped,
    }
    .run(inbox, shutdown)
    .await;
    Ok(())
}

struct Shell {
    proxy: Proxy,
    relay: Relay,
    store: Arc<dyn Store>,
    store_backend: Backend,
    events: mpsc::Sender<Event>,
    shown: metrics::Shown,
    health: Health,
    uid: String,
    stage: Stage,
    drain_timeout: Duration,
    upgrade_drain_timeout: Duration,
    upgrade: Upgrade,
    /// The proxy that this one is to succeed, as long as it has not.
    predecessor: Option<Predecessor>,
    /// Whether to accept clients, where that was asked for and is not done yet.
    listen: Option<bool>,
    scraped: Option<Scraped>,
}

impl Shell {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>, shutdown: Shutdown) {
        let mut watch = self.store.watch();
        let mut wake_at: Option<Instant> = None;
        let mut event = Event::StoreChanged;
        // Routes that are set and not yet answered for.
        let mut routes_set = 0_u32;
        // SIGTERM, and SIGTERM again.
        let mut asked = 0_u32;
        while self.stage != Stage::Over {
            self.health.turn();
            routes_set += self.handle(event, &mut wake_at);
            self.follow_listen();
            self.show();
            if routes_set > 0 {
                routes_set -= 1;
                event = Event::RouteSet;
                continue;
            }
            self.health.rests_until(wake_at);
            event = tokio::select! {
                // Time first: a flood of events must not keep a deadline waiting.
                biased;
                () = shutdown.requested(), if asked == 0 => {
                    asked = 1;
                    tracing::info!("stopping stolon proxy");
                    self.go_on_to(self.stage.asked(clock::now(), self.drain_timeout));
                    Event::Wake
                }
                () = shutdown.insisted(), if asked == 1 => {
                    asked = 2;
                    self.go_on_to(self.stage.asked(clock::now(), Duration::ZERO));
                    Event::Wake
                }
                () = clock::sleep_until(self.stage.until()) => {
                    self.go_on_to(self.stage.timed(clock::now()));
                    Event::Wake
                }
                () = self.relay.drained(), if !self.stage.serves() => break,
                news = self.upgrade.news(self.stage.serves()) => {
                    // One that was asked to stop itself needs nobody in its place.
                    if asked == 0 || !matches!(news, News::Ended) {
                        self.take_news(news);
                    }
                    Event::Wake
                }
                () = gone(&mut self.predecessor), if self.predecessor.is_some() => {
                    tracing::warn!("the proxy before this one has ended");
                    self.is_alone();
                    Event::Wake
                }
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

    /// Tells core of an event and does what follows: how many routes that set.
    fn handle(&mut self, event: Event, wake_at: &mut Option<Instant>) -> u32 {
        let mut routes_set = 0;
        for effect in self.proxy.handle(clock::now(), event) {
            match effect {
                Effect::WakeAt(at) => *wake_at = Some(at),
                // Returns when what it forbids is gone: then core may acknowledge it.
                Effect::Route(route) => {
                    self.relay.set_route(&route);
                    routes_set += 1;
                }
                Effect::ReadRoute(route) => {
                    self.relay.set_read_route(&route);
                    routes_set += 1;
                }
                effect => self.carry_out(effect),
            }
        }
        routes_set
    }

    /// Shows where clients go, and whether this proxy is ready for them.
    fn show(&mut self) {
        self.shown.update(&self.proxy);
        if self.scraped.is_none() {
            // Who is still to be answered asked before a successor took over.
            return;
        }
        let not_ready = if !self.stage.serves() {
            Some("stopping")
        } else if self.proxy.good_at().is_none() {
            Some("no check of the cluster data succeeded yet")
        } else if !self.proxy.is_sighted(clock::now()) {
            Some("no check of the cluster data succeeded lately")
        } else if self.proxy.waits_to_be_enabled() {
            Some("not enabled by a sentinel")
        } else {
            None
        };
        self.health.set_ready(not_ready.map(str::to_owned));
    }

    /// Takes the end of this proxy so far.
    fn go_on_to(&mut self, stage: Stage) {
        if stage == self.stage {
            return;
        }
        self.stage = stage;
        if let Some(pid) = self.upgrade.give_up() {
            self.make_way(pid);
        }
        match stage {
            Stage::Serving | Stage::Over => {}
            Stage::Draining(until) => {
                let (connections, left) = (self.relay.connections(), until.since(clock::now()));
                tracing::info!(connections, "sessions may go on for {left:.0?}");
                self.relay.retire();
            }
            Stage::Ending(_) => self.relay.drain(),
        }
    }

    /// Accepts clients, or stops to, as was asked for; a successor not before it has a way for them.
    fn follow_listen(&mut self) {
        let has_way = matches!(self.proxy.route(), Route::To { .. });
        let too_soon = self.predecessor.is_some() && !has_way;
        let Some(listen) = self.listen.take_if(|listen| !*listen || !too_soon) else {
            return;
        };
        if let Some(predecessor) = self.predecessor.as_ref().filter(|_| listen) {
            if !predecessor.take_over() {
                // Its end is waited for.
                self.listen = Some(true);
                return;
            }
            self.is_alone();
        }
        self.relay.listen(listen);
    }

    /// There is no proxy before this one any more.
    fn is_alone(&mut self) {
        self.predecessor = None;
        self.show();
        if let Some(scraped) = &mut self.scraped {
            scraped.serve();
        }
    }

    fn take_news(&mut self, news: News) {
        match news {
            News::Wanted => match self.begin_upgrade() {
                Ok(()) => tracing::info!("starting a successor: asked to by SIGUSR2"),
                Err(error) => tracing::error!(%error, "cannot start a successor"),
            },
            News::Ended => {
                tracing::error!("the successor has ended: ending too, so that one is started anew");
                self.go_on_to(self.stage.asked(clock::now(), Duration::ZERO));
            }
            News::Failed(why) => tracing::error!(why, "no successor: going on as before"),
            News::TookOver(pid) => {
                self.make_way(pid);
                self.go_on_to(self.stage.asked(clock::now(), self.upgrade_drain_timeout));
            }
        }
    }

    /// A successor is there.
    fn make_way(&mut self, pid: u32) {
        tracing::info!(pid, "a successor has taken over");
        notify::main_process(pid);
        self.scraped = None;
    }

    fn begin_upgrade(&mut self) -> std::io::Result<()> {
        if let Some(why) = upgrade::impossible(self.store_backend, std::process::id()) {
            return Err(std::io::Error::other(why));
        }
        let mut sockets = self.relay.sockets()?;
        if sockets.is_empty() {
            return Err(std::io::Error::other(
                "no socket to hand over: it does not listen now",
            ));
        }
        if let Some(scraped) = &self.scraped {
            sockets.push(scraped.socket()?);
        }
        self.upgrade.begin(&sockets)
    }

    fn carry_out(&mut self, effect: Effect) {
        let (events, store) = (self.events.clone(), self.store.clone());
        match effect {
            Effect::Log(reason) => logging::log_reason(&reason),
            Effect::Listen(listen) => self.listen = Some(listen),
            Effect::Read => {
                tokio::spawn(async move {
                    let _ = events.send(read(store.as_ref()).await).await;
                });
            }
            Effect::ReadReports => {
                tokio::spawn(async move {
                    let _ = events.send(reports(store.as_ref()).await).await;
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
            Effect::WakeAt(_) | Effect::Route(_) | Effect::ReadRoute(_) => {}
        }
    }
}

/// Waits for the end of a predecessor; for ever when there is none.
async fn gone(predecessor: &mut Option<Predecessor>) {
    match predecessor {
        Some(predecessor) => predecessor.gone().await,
        None => std::future::pending().await,
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

/// What members published, for who leads clients to standbys.
async fn reports(store: &dyn Store) -> Event {
    let sent_at = clock::now();
    let listed = tokio::try_join!(store.list(Folder::Keepers), store.list(Folder::Sentinels));
    match listed {
        Ok((keepers, sentinels)) => Event::Reports {
            sent_at,
            reports: Reports {
                keepers: document::understood(keepers),
                sentinels: document::understood(sentinels),
            },
        },
        Err(error) => {
            tracing::debug!(%error, "cannot read what members published");
            Event::ReportsFailed
        }
    }
}

#[cfg(test)]
mod tests;
