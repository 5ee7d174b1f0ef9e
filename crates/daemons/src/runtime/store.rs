//! The store as a daemon uses it: each call is counted and timed, and a store that ceases to answer,
//! and answers again, is told of once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use stolon_core::time::Instant;
use stolon_store::{
    Config, Entry, Error, Everything, Expected, Folder, Key, Leadership, Store, Watch, Written,
};

use super::clock;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    call: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Endpoint {
    endpoint: String,
}

type HistogramOfCalls = Family<Call, Histogram, fn() -> Histogram>;
type CounterOfCalls = Family<Call, Counter>;

#[derive(Debug, Clone)]
struct Metrics {
    calls: HistogramOfCalls,
    errors: CounterOfCalls,
    endpoint: Family<Endpoint, Gauge>,
}

/// Opens the store; its metrics go to the registry.
pub fn open(config: &Config, registry: &mut Registry) -> Result<Arc<dyn Store>, Error> {
    let m = Metrics {
        // 1 ms to 8 s.
        calls: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 14))),
        errors: Family::default(),
        endpoint: Family::default(),
    };
    registry.register(
        "stolon_store_call_seconds",
        "How long calls to the store took, failed ones included",
        m.calls.clone(),
    );
    registry.register(
        "stolon_store_errors",
        "Calls to the store that failed, or had no answer",
        m.errors.clone(),
    );
    registry.register(
        "stolon_store_endpoint",
        "1 for the endpoint in use",
        m.endpoint.clone(),
    );
    let observed = Observed {
        inner: stolon_store::open(config)?,
        metrics: m,
        state: Mutex::default(),
    };
    Ok(Arc::new(observed))
}

#[derive(Debug)]
struct Observed {
    inner: Arc<dyn Store>,
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when every call of a kind has failed. Reads may succeed while a full disk, or missing
    /// permission, lets nothing be written.
    failing: BTreeMap<&'static str, Instant>,
    /// The endpoint that was last told of.
    endpoint: Option<String>,
}

impl Observed {
    /// Counts a call, and tells of a change of state.
    fn note(&self, call: &'static str, sent: Instant, failed: Option<&Error>) {
        let took = clock::now().since(sent);
        let label = Call { call };
        let calls = self.metrics.calls.get_or_create(&label);
        calls.observe(took.as_secs_f64());
        drop(calls);
        if failed.is_some() {
            self.metrics.errors.get_or_create(&label).inc();
        }
        let endpoint = self.inner.describe();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = state.endpoint.as_ref() != Some(&endpoint);
        if moved {
            self.metrics.endpoint.clear();
            let in_use = Endpoint {
                endpoint: endpoint.clone(),
            };
            self.metrics.endpoint.get_or_create(&in_use).set(1);
        }
        match (failed, state.failing.get(call).copied()) {
            (Some(error), None) => {
                state.failing.insert(call, sent);
                tracing::warn!(store = endpoint, call, %error, "the store fails");
            }
            (None, Some(since)) => {
                state.failing.remove(call);
                let failed_for = format!("{:.1?}", clock::now().since(since));
                tracing::info!(
                    store = endpoint,
                    call,
                    failed_for,
                    "the store answers again"
                );
            }
            (None, None) if moved && state.endpoint.is_some() => {
                tracing::info!(
                    store = endpoint,
                    before = state.endpoint,
                    "another endpoint of the store is used"
                );
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        state.endpoint = Some(endpoint);
    }

    async fn read<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let sent = clock::now();
        let answer = answer.await;
        self.note(call, sent, answer.as_ref().err());
        answer
    }

    async fn write(
        &self,
        call: &'static str,
        outcome: impl Future<Output = Written> + Send,
    ) -> Written {
        let sent = clock::now();
        let outcome = outcome.await;
        let failed = match &outcome {
            Written::Yes(_) | Written::Conflict => None,
            Written::No(error) | Written::Unknown(error) => Some(error),
        };
        self.note(call, sent, failed);
        outcome
    }
}

#[async_trait::async_trait]
impl Store for Observed {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.read("get", self.inner.get(key)).await
    }

    async fn compare_and_swap(&self, key: &Key, expected: Expected, value: &[u8]) -> Written {
        let outcome = self.inner.compare_and_swap(key, expected, value);
        self.write("compare_and_swap", outcome).await
    }

    async fn put(&self, key: &Key, value: &[u8]) -> Written {
        self.write("put", self.inner.put(key, value)).await
    }

    async fn delete(&self, key: &Key) -> Written {
        self.write("delete", self.inner.delete(key)).await
    }

    async fn publish(&self, key: &Key, value: &[u8], ttl: Duration) -> Result<(), Error> {
        self.read("publish", self.inner.publish(key, value, ttl))
            .await
    }

    async fn list(&self, folder: Folder) -> Result<Vec<Entry>, Error> {
        self.read("list", self.inner.list(folder)).await
    }

    async fn read_all(&self) -> Result<Everything, Error> {
        self.read("read_all", self.inner.read_all()).await
    }

    fn watch(&self) -> Watch {
        self.inner.watch()
    }

    fn lead(&self, uid: &str) -> Leadership {
        self.inner.lead(uid)
    }

    async fn leader(&self) -> Result<Option<String>, Error> {
        self.read("leader", self.inner.leader()).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
