//! The agents of Consul: who we are to them, and reading.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::Method;
use reqwest::header::HeaderValue;
use tokio::time::Instant;

use super::answer::{self, Pair};
use crate::addresses::CONSUL_PORT;
use crate::failure::Failure;
use crate::http::{Answer, Client, Http, Pool, Request};
use crate::{Config, Error, Revision, pool};

/// The agents that may be asked.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) pool: Pool,
    datacenter: Option<String>,
    token_file: Option<PathBuf>,
    token: Mutex<Option<HeaderValue>>,
}

impl Agent {
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        let http = Http::new(config, "consul", "a Consul agent", CONSUL_PORT)?;
        let token_file = config.access.token_file.clone();
        let token = match (&token_file, &config.access.token) {
            (Some(path), _) => Some(read_token(path).map_err(Error::Config)?),
            (None, Some(token)) => Some(header(token).map_err(Error::Config)?),
            (None, None) => None,
        };
        Ok(Self {
            pool: Arc::new(pool::Pool::new(http, pool::timeout(config)?)),
            datacenter: config.access.datacenter.clone(),
            token_file,
            token: Mutex::new(token),
        })
    }

    /// A question for what lies under these parts of a path, in the datacenter that is meant.
    pub(super) fn request<'a>(
        &self,
        method: Method,
        path: impl IntoIterator<Item = &'a str>,
    ) -> Request {
        let request = Request::new(method, path);
        match &self.datacenter {
            Some(datacenter) => request.query("dc", datacenter),
            None => request,
        }
    }

    /// The same for a key.
    pub(super) fn key(&self, method: Method, path: &str) -> Request {
        self.request(method, ["v1", "kv"].into_iter().chain(path.split('/')))
    }

    /// Asks as who we are. When that is refused and there is a token file with another token by
    /// now, once more with that: tokens expire, and whoever hands them out writes new ones.
    pub(super) async fn send(&self, client: &Client, request: Request) -> Result<Answer, Failure> {
        let used = self.token();
        let answer = client.send(with(request.clone(), used.clone())).await?;
        if answer.status != 403 {
            return Ok(answer);
        }
        let Some(path) = &self.token_file else {
            return Ok(answer);
        };
        match read_token(path) {
            Ok(token) if used.as_ref() != Some(&token) => {
                *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
                client.send(with(request, Some(token))).await
            }
            Ok(_) => Ok(answer),
            Err(why) => Err(Failure::refused(format!("{}; {why}", answer.text()))),
        }
    }

    /// Reads a key; none when it is absent. Besides, the index of the answer.
    pub(super) async fn read(
        &self,
        path: &str,
        end: Instant,
    ) -> Result<(Option<Pair>, Revision), Error> {
        let request = self.key(Method::GET, path).query("consistent", "");
        let ask = |client| {
            let request = request.clone();
            async move {
                let answer = self.send(&client, request).await?;
                let index = Revision(answer.number(answer::INDEX).unwrap_or(0));
                Ok((answer::pairs(&answer)?.into_iter().next(), index))
            }
        };
        self.pool.call(end, ask).await.result
    }

    /// Reads all keys that begin with a path, by name.
    pub(super) async fn read_below(&self, path: &str, end: Instant) -> Result<Vec<Pair>, Error> {
        let request = self
            .key(Method::GET, path)
            .query("recurse", "")
            .query("consistent", "");
        let ask = |client| {
            let request = request.clone();
            async move { answer::pairs(&self.send(&client, request).await?) }
        };
        self.pool.call(end, ask).await.result
    }

    fn token(&self) -> Option<HeaderValue> {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        token.clone()
    }
}

fn with(request: Request, token: Option<HeaderValue>) -> Request {
    match token {
        Some(token) => request.header("x-consul-token", token),
        None => request,
    }
}

fn read_token(path: &std::path::Path) -> Result<HeaderValue, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("the token file {}: {error}", path.display()))?;
    header(text.trim()).map_err(|error| format!("the token file {}: {error}", path.display()))
}

/// A token as it is sent; it is not shown.
fn header(token: &str) -> Result<HeaderValue, String> {
    if token.is_empty() {
        return Err("no token in it".to_owned());
    }
    let mut value = HeaderValue::from_str(token)
        .map_err(|_| "the token has characters that no token has".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}
