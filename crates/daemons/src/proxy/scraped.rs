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
    _served: AbortOnDropHandle<()>,
}

impl Scraped {
    /// Serves at the socket that this process was started with, else where it is configured, if it is.
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
        let served = AbortOnDropHandle::new(http::serve_from(listener, registry, health));
        Ok(Some(Self {
            held,
            _served: served,
        }))
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
