//! Services in Consul: where those who ask it find a cluster's instances.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::agent::Agent;
use super::answer;
use crate::failure::Failure;
use crate::http::Answer;
use crate::{Config, Error};

/// An instance as others find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Names it among all services of the agent.
    pub id: String,
    /// What it is looked up by.
    pub name: String,
    /// What tells it from others of the same name, sorted.
    pub tags: Vec<String>,
    /// Host.
    pub address: String,
    /// TCP port.
    pub port: u16,
}

/// The services of one Consul agent.
#[derive(Debug)]
pub struct Services {
    agent: Agent,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Registered {
    #[serde(rename = "ID")]
    id: String,
    service: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: u16,
}

/// Reads the services of that name out of all of an agent's.
pub(crate) fn named(answer: &Answer, name: &str) -> Result<Vec<Service>, Failure> {
    let all: BTreeMap<String, Registered> = answer.json()?;
    let named = all.into_values().filter(|found| found.service == name);
    let service = |found: Registered| {
        let mut tags = found.tags.unwrap_or_default();
        tags.sort();
        Service {
            id: found.id,
            name: found.service,
            tags,
            address: found.address,
            port: found.port,
        }
    };
    Ok(named.map(service).collect())
}

impl Services {
    /// The services of an agent; the backend, prefix and cluster of the configuration do not matter.
    pub fn open(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            agent: Agent::new(config)?,
        })
    }

    /// All services of that name, by id.
    pub async fn named(&self, name: &str) -> Result<Vec<Service>, Error> {
        let request = self.agent.request(Method::GET, ["v1", "agent", "services"]);
        let ask = |client| {
            let request = request.clone();
            async move {
                let answer = self.agent.send(&client, request).await?;
                if answer.status != 200 {
                    return Err(answer::failure(&answer));
                }
                named(&answer, name)
            }
        };
        let end = self.agent.pool.deadline();
        self.agent.pool.call(end, ask).await.result
    }

    /// Registers a service, also over one of the same id. The agent connects to it every ten
    /// seconds to see whether it is there.
    pub async fn register(&self, service: &Service) -> Result<(), Error> {
        let host = if service.address.contains(':') {
            format!("[{}]", service.address)
        } else {
            service.address.clone()
        };
        let body = json!({
            "ID": service.id,
            "Name": service.name,
            "Tags": service.tags,
            "Address": service.address,
            "Port": service.port,
            "Check": { "TCP": format!("{host}:{}", service.port), "Interval": "10s" },
        });
        let body = body.to_string().into_bytes();
        self.change(vec!["v1", "agent", "service", "register"], body)
            .await
    }

    /// Removes a service; one that is not there is no error.
    pub async fn deregister(&self, id: &str) -> Result<(), Error> {
        let path = vec!["v1", "agent", "service", "deregister", id];
        self.change(path, Vec::new()).await
    }

    async fn change(&self, path: Vec<&str>, body: Vec<u8>) -> Result<(), Error> {
        let request = self
            .agent
            .request(Method::PUT, path)
            .body("application/json", body);
        let ask = |client| {
            let request = request.clone();
            async move {
                let answer = self.agent.send(&client, request).await?;
                match answer.status {
                    200 | 404 => Ok(()),
                    _ => Err(answer::failure(&answer)),
                }
            }
        };
        let end = self.agent.pool.deadline();
        self.agent.pool.call(end, ask).await.result
    }
}
