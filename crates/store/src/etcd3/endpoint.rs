//! Connections to etcd's version 3 API.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, Error as EtcdError};
use tonic::transport::Endpoint;

use super::failure::{NO_USER, authentication_is_off};
use crate::addresses::{ETCD_PORT, addresses};
use crate::failure::{Failure, innermost};
use crate::pool::{self, Connect};
use crate::{Config, Error, tls};

/// etcd closes connections that ping more often than every 5 s, and those that ping while they
/// carry no stream (`--grpc-keepalive-min-time`; measured, dependencies.md 3.5).
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_ANSWER: Duration = Duration::from_secs(3);

/// The endpoints of etcd's version 3 API.
pub(super) struct Etcd {
    addresses: Vec<String>,
    endpoints: Vec<Endpoint>,
    /// User and password of etcd's authentication.
    user: Option<(String, String)>,
}

impl std::fmt::Debug for Etcd {
    /// Without what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let user = self.user.as_ref().map(|(user, _)| user);
        f.debug_struct("Etcd")
            .field("addresses", &self.addresses)
            .field("user", &user)
            .finish_non_exhaustive()
    }
}

impl Etcd {
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        let addresses = addresses(&config.endpoints, ETCD_PORT)?;
        let connect_timeout = pool::connect_timeout(pool::timeout(config)?, addresses.len());
        let endpoints = endpoints(config, &addresses, connect_timeout)?;
        Ok(Self {
            addresses,
            endpoints,
            user: config.access.user.clone(),
        })
    }

    async fn connect(&self, index: usize, options: ConnectOptions) -> Result<Client, EtcdError> {
        let channel = Channel::Tonic(self.endpoints[index].connect_lazy());
        Client::from_channel(channel, Some(options)).await
    }
}

impl Connect for Etcd {
    type Client = Client;
    type Error = etcd_client::Error;

    fn name(&self) -> &'static str {
        "etcdv3"
    }

    fn server(&self) -> &'static str {
        "etcd"
    }

    fn addresses(&self) -> &[String] {
        &self.addresses
    }

    async fn client(&self, index: usize) -> Result<Client, Failure> {
        let options = ConnectOptions::new().with_require_leader(true);
        let Some((user, password)) = &self.user else {
            return Ok(self.connect(index, options).await?);
        };
        // A call with a token that has expired authenticates anew and is made again; it was not
        // carried out. `watching.rs` does the same for watches, which are told in another way.
        let with_user = options
            .clone()
            .with_user(user, password)
            .with_auto_token_refresh(true);
        match self.connect(index, with_user).await {
            // Users may be given before the servers ask for them.
            Err(error) if authentication_is_off(&error) => Ok(self.connect(index, options).await?),
            answer => Ok(answer?),
        }
    }

    fn judge(&self, failure: Failure) -> Failure {
        // The servers ask for users since this client was made: the next one tells its own.
        if self.user.is_some() && failure.text.contains(NO_USER) {
            return Failure::did_nothing(failure.text);
        }
        failure
    }
}

fn endpoints(
    config: &Config,
    addresses: &[String],
    connect_timeout: Duration,
) -> Result<Vec<Endpoint>, Error> {
    let secure = addresses
        .first()
        .is_some_and(|address| address.starts_with("https:"));
    let tls = if secure {
        Some(tls::load(&config.tls)?)
    } else {
        tls::warn_unused(&config.tls);
        None
    };
    let build = |address: &String| {
        let refused = |error: &dyn std::error::Error| {
            let cause = innermost(error);
            Error::Config(format!("--store-endpoints {address:?}: {cause}"))
        };
        let endpoint = Endpoint::from_shared(address.clone()).map_err(|error| refused(&error))?;
        let endpoint = match &tls {
            None => endpoint,
            Some(tls) => match &tls.verifier {
                Some(verifier) => endpoint
                    .tls_config_with_verifier(tls.client.clone(), Arc::clone(verifier))
                    .map_err(|error| refused(&error))?,
                None => endpoint
                    .tls_config(tls.client.clone())
                    .map_err(|error| refused(&error))?,
            },
        };
        Ok(endpoint
            .connect_timeout(connect_timeout)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER)
            .keep_alive_while_idle(false))
    };
    addresses.iter().map(build).collect()
}
