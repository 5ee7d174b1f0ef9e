//! The ports of a proxy.

use stolon_core::proxy::Passages;

use super::config::Config;
use super::metrics::{OfProxy, Port};
use super::relay::{Relay, places_for};

/// One relay for each port.
pub(super) struct Relays {
    pub(super) primary: Relay,
    read_only: Option<Relay>,
}

impl Relays {
    /// Relays that together may have so many files open.
    pub(super) fn new(config: &Config, metrics: &OfProxy, files: u64) -> Self {
        let places = places_for(files);
        let relay = |listening, port| Relay::new(listening, config, metrics.of(port), &places);
        let read_only = config.read_only.as_ref();
        Self {
            primary: relay(&config.listening, Port::Primary),
            read_only: read_only.map(|(listening, _)| relay(listening, Port::ReadOnly)),
        }
    }

    /// See [`Relay::set_passages`].
    pub(super) fn set_readers(&self, passages: &Passages) {
        if let Some(relay) = &self.read_only {
            relay.set_passages(passages);
        }
    }

    /// See [`Relay::listen`].
    pub(super) fn listen(&mut self, listen: bool) {
        for relay in self.each() {
            relay.listen(listen);
        }
    }

    /// See [`Relay::drain`].
    pub(super) fn drain(&mut self) {
        for relay in self.each() {
            relay.drain();
        }
    }

    /// Waits until no connection is left.
    pub(super) async fn drained(&self) {
        self.primary.drained().await;
        if let Some(relay) = &self.read_only {
            relay.drained().await;
        }
    }

    /// See [`Relay::close`].
    pub(super) fn close(&mut self, why: &str) {
        for relay in self.each() {
            relay.close(why);
        }
    }

    fn each(&mut self) -> impl Iterator<Item = &mut Relay> {
        [Some(&mut self.primary), self.read_only.as_mut()]
            .into_iter()
            .flatten()
    }
}
