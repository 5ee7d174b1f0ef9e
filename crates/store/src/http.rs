//! Stores that speak HTTP/1: one client for each endpoint and turn, requests and answers.

pub(crate) mod following;

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Method, Url};
use rustls::ClientConfig;

use crate::addresses::addresses;
use crate::failure::{Failure, innermost};
use crate::pool::{self, Connect};
use crate::{Config, Error, tls};

/// A connection that lay idle for longer is not used again: the server may have closed it.
const IDLE: Duration = Duration::from_secs(20);
/// The longest answer that is read: some times all that a store holds of a large cluster.
const LONGEST_ANSWER: usize = 64 * 1024 * 1024;
/// Letters of an answer that a message repeats.
const LONGEST_LINE: usize = 300;

/// The endpoints of a store that speaks HTTP.
#[derive(Debug)]
pub(crate) struct Http {
    name: &'static str,
    server: &'static str,
    addresses: Vec<String>,
    tls: ClientConfig,
    connect_timeout: Duration,
    authorization: Option<HeaderValue>,
}

/// What asks one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    authorization: Option<HeaderValue>,
}

/// A question.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    method: Method,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// As HTTP has it.
    pub(crate) status: u16,
    headers: HeaderMap,
    /// What was said.
    pub(crate) body: Vec<u8>,
}

/// An answer whose body has not been read yet.
#[derive(Debug)]
pub(crate) struct Begun(reqwest::Response);

impl Http {
    /// The endpoints of a configuration. `name` is the store's in messages, `server` the server's;
    /// `port` is where it listens by default.
    pub(crate) fn new(
        config: &Config,
        name: &'static str,
        server: &'static str,
        port: u16,
    ) -> Result<Self, Error> {
        let addresses = addresses(&config.endpoints, port)?;
        let timeout = pool::timeout(config)?;
        let secure = addresses.iter().any(|address| address.starts_with("https"));
        Ok(Self {
            name,
            server,
            connect_timeout: pool::connect_timeout(timeout, addresses.len()),
            tls: if secure {
                tls::rustls(&config.tls)?
            } else {
                tls::unused(&config.tls)?
            },
            authorization: authorization(config)?,
            addresses,
        })
    }
}

/// The user of the configuration, as HTTP's basic authentication has it.
fn authorization(config: &Config) -> Result<Option<HeaderValue>, Error> {
    use base64::Engine as _;
    let Some((user, password)) = &config.access.user else {
        return Ok(None);
    };
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let mut value = HeaderValue::from_str(&format!("Basic {text}"))
        .map_err(|error| Error::Config(format!("user {user:?} of the store: {error}")))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

impl Connect for Http {
    type Client = Client;
    type Error = Failure;

    fn name(&self) -> &'static str {
        self.name
    }

    fn server(&self) -> &'static str {
        self.server
    }

    fn addresses(&self) -> &[String] {
        &self.addresses
    }

    async fn client(&self, index: usize) -> Result<Client, Failure> {
        let address = &self.addresses[index];
        let endpoint = Url::parse(address).map_err(|error| Failure::refused(error.to_string()))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(IDLE)
            // Neither http_proxy of the environment nor a server decides whom we talk to.
            .no_proxy()
            .redirect(Policy::none())
            .build()
            .map_err(|error| Failure::refused(innermost(&error)))?;
        Ok(Client {
            http,
            endpoint,
            authorization: self.authorization.clone(),
        })
    }
}

impl Request {
    /// A question for what lies under these parts of a path; an empty last one ends it with a slash.
    pub(crate) fn new<'a>(method: Method, path: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            method,
            path: path.into_iter().map(str::to_owned).collect(),
            query: Vec::new(),
            headers: HeaderMap::new(),
            body: Vec::new(),
        }
    }

    pub(crate) fn query(mut self, name: &'static str, value: &(impl ToString + ?Sized)) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn body(mut self, kind: &'static str, body: Vec<u8>) -> Self {
        self.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        self.body = body;
        self
    }
}

impl Client {
    /// Asks, and reads the whole answer.
    pub(crate) async fn send(&self, request: Request) -> Result<Answer, Failure> {
        self.begin(request).await?.read().await
    }

    /// Asks, and waits for the beginning of the answer.
    pub(crate) async fn begin(&self, request: Request) -> Result<Begun, Failure> {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().extend(&request.path);
        }
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        let mut asked = self
            .http
            .request(request.method, url)
            .headers(request.headers)
            .body(request.body);
        if let Some(authorization) = &self.authorization {
            asked = asked.header(AUTHORIZATION, authorization);
        }
        let answer = asked.send().await.map_err(|error| failed(&error))?;
        Ok(Begun(answer))
    }
}

impl Begun {
    pub(crate) fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    /// A number in a header.
    pub(crate) fn number(&self, header: &str) -> Option<u64> {
        number(self.0.headers(), header)
    }

    /// Reads the rest.
    pub(crate) async fn read(mut self) -> Result<Answer, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = self.0.chunk().await.map_err(|error| failed(&error))? {
            if body.len() + chunk.len() > LONGEST_ANSWER {
                let text = format!("an answer longer than {LONGEST_ANSWER} bytes");
                return Err(Failure::unavailable(text));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status: self.status(),
            headers: std::mem::take(self.0.headers_mut()),
            body,
        })
    }
}

impl Answer {
    /// An answer without headers.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn new(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body,
        }
    }

    /// A number in a header.
    pub(crate) fn number(&self, header: &str) -> Option<u64> {
        number(&self.headers, header)
    }

    /// The body as text, for messages.
    pub(crate) fn text(&self) -> String {
        let line = first_line(&String::from_utf8_lossy(&self.body));
        if line.is_empty() {
            format!("HTTP status {}", self.status)
        } else {
            line
        }
    }

    /// The body, read as JSON.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let text = format!("an answer that cannot be read ({error}): {}", self.text());
            Failure::unavailable(text)
        })
    }
}

/// What a server said, for messages: its first line, and no more than a line holds.
pub(crate) fn first_line(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    line.chars().take(LONGEST_LINE).collect()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn failed(error: &reqwest::Error) -> Failure {
    Failure::connection(innermost(error), error.is_connect())
}

/// What is asked by several calls at once.
pub(crate) type Pool = Arc<pool::Pool<Http>>;
