//! Where the proxy's metrics are read, which moves on to a successor too.

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::config::Config;
use super::upgrade::METRICS;
use crate::config::Error;
use crate::runtime::http::{self, Health};
use crate::runtime::passed::{self, Passed};

/// The socket for `/metrics`; dropped, nobody is answered there any more.
pub(super) struct Scraped {
    held: Passed,
    /// What is served, before it is: a successor leaves those who ask to the proxy before it, which
    /// accepts by the same socket and is ready.
    begun: Option<(TcpListener, Registry, Health)>,
    served: Option<AbortOnDropHandle<()>>,
}

impl Scraped {
    /// The socket that this process was started with, else where it is configured, if it is.
    pub(super) async fn begin(
        config: &Config,
        passed: Option<Passed>,
        registry: Registry,
        health: Health,
    ) -> Result<Option<Self>, Error> {
        let unusable = |error: std::io::Error| passed::Error(format!("{METRICS}: {error}"));
        let kept = passed.as_ref().is_some_and(|passed| passed.kept);
        let listener: TcpListener = match passed {
            Some(passed) => {
                let listener = passed.listener().and_then(TcpListener::from_std);
                listener.map_err(unusable)?
            }
            None => match http::listen(config.common.metrics_listen_address).await? {
                Some(listener) => listener,
                None => return Ok(None),
            },
        };
        let held = Passed::share(&listener, METRICS, kept).map_err(unusable)?;
        Ok(Some(Self {
            held,
            begun: Some((listener, registry, health)),
            served: None,
        }))
    }

    /// Answers from now on.
    pub(super) fn serve(&mut self) {
        if let Some((listener, registry, health)) = self.begun.take() {
            let served = http::serve_from(listener, registry, health);
            self.served = Some(AbortOnDropHandle::new(served));
        }
    }

    /// The socket, for a successor.
    pub(super) fn socket(&self) -> std::io::Result<Passed> {
        Ok(Passed {
            name: self.held.name.clone(),
            kept: self.held.kept,
            socket: self.held.socket.try_clone()?,
        })
    }
}
