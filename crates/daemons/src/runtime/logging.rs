//! Log lines on stderr: the Go program's form, or JSON.
//!
//! Nothing waits for whoever reads them: lines go through a bounded queue to a thread that writes,
//! and when the reader has stopped they are dropped and counted.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use stolon_core::reason::{Reason, Severity};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Lines that wait to be written before more are dropped.
const QUEUE: usize = 8192;

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Time, level, place, message and values between tabs, as the Go program writes.
    Text,
    /// One JSON object.
    Json,
}

/// The library that talks to Kubernetes: every refused call is an error to it, and a document that
/// it cannot read is shown whole. What follows from them is told by the store.
const SILENT: &str = "kube_client";

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// The least important level that is written.
    pub level: Level,
    /// Whether levels are coloured.
    pub color: bool,
    /// The form of a line.
    pub format: LogFormat,
}

/// What waits in the queue.
enum Item {
    Line(String),
    /// Everything before it is written when this is answered.
    Flush(SyncSender<()>),
}

/// How long [`flush`] waits for a reader that has stopped.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

static QUEUE_END: OnceLock<SyncSender<Item>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Sets logging up, once; a second call has no effect.
pub fn init(config: LogConfig) {
    let (sender, receiver) = sync_channel::<Item>(QUEUE);
    if QUEUE_END.set(sender).is_err() {
        return;
    }
    std::thread::spawn(move || {
        let mut stderr = std::io::stderr();
        for item in receiver {
            let line = match item {
                Item::Line(line) => line,
                Item::Flush(done) => {
                    // Whoever does not wait any more need not know.
                    let _ = done.try_send(());
                    continue;
                }
            };
            let dropped = DROPPED.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                let _ = writeln!(
                    stderr,
                    "({dropped} log lines were dropped: nobody read them)"
                );
            }
            let _ = stderr.write_all(line.as_bytes());
        }
    });
    let _ = tracing_subscriber::registry()
        .with(Lines { config })
        .try_init();
}

/// Writes a line as it is, in order with the log: for what PostgreSQL says.
pub fn write_line(mut line: String) {
    line.push('\n');
    let sent = QUEUE_END
        .get()
        .map(|queue| queue.try_send(Item::Line(line)));
    if let Some(Err(TrySendError::Full(_))) = sent {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until what was logged is written, for a second at most: before the process ends.
pub fn flush() {
    let (done, written) = sync_channel(1);
    let asked = QUEUE_END
        .get()
        .map(|queue| queue.try_send(Item::Flush(done)));
    if matches!(asked, Some(Ok(()))) {
        let _ = written.recv_timeout(FLUSH_LIMIT);
    }
}

/// Logs a reason. Its place is that of the caller: the role that decided.
#[track_caller]
pub fn log_reason(reason: &Reason) {
    let caller = std::panic::Location::caller();
    let said_at = place(Some(caller.file()), Some(caller.line()));
    let details: serde_json::Map<_, _> = reason
        .details
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    let details = serde_json::Value::Object(details).to_string();
    let (text, code) = (reason.text.as_str(), reason.code.as_str());
    match reason.severity {
        Severity::Debug => tracing::debug!(details, code, said_at, "{text}"),
        Severity::Info => tracing::info!(details, code, said_at, "{text}"),
        Severity::Warn => tracing::warn!(details, code, said_at, "{text}"),
        Severity::Error => tracing::error!(details, code, said_at, "{text}"),
    }
}

struct Lines {
    config: LogConfig,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        if metadata.target().starts_with(SILENT) {
            return false;
        }
        // Libraries below speak only of trouble.
        let ours = metadata.target().starts_with("stolon");
        let least = if ours {
            self.config.level
        } else {
            self.config.level.min(Level::WARN)
        };
        *metadata.level() <= least
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut values = Values::default();
        event.record(&mut values);
        let metadata = event.metadata();
        let of_event = || place(metadata.file(), metadata.line());
        let place = values.said_at.take().unwrap_or_else(of_event);
        let line = match self.config.format {
            LogFormat::Text => text_line(*metadata.level(), &place, &values, self.config.color),
            LogFormat::Json => json_line(*metadata.level(), &place, &values),
        };
        write_line(line);
    }
}

/// `keeper/apply.rs:12` of the source path.
fn place(file: Option<&str>, line: Option<u32>) -> String {
    let file = file.unwrap_or("?");
    let short = file.rsplit_once("src/").map_or(file, |(_, short)| short);
    format!("{short}:{}", line.unwrap_or(0))
}

#[derive(Default)]
struct Values {
    message: String,
    /// Where it was said, when that is not where the line was made.
    said_at: Option<String>,
    fatal: bool,
    fields: serde_json::Map<String, serde_json::Value>,
}

impl Values {
    fn set(&mut self, name: &str, value: String) {
        match name {
            "message" => self.message = value,
            "said_at" => self.said_at = Some(value),
            "fatal" => self.fatal = value == "true",
            "details" => {
                if let Ok(serde_json::Value::Object(details)) = serde_json::from_str(&value) {
                    self.fields.extend(details);
                }
            }
            name => {
                self.fields.insert(name.to_owned(), value.into());
            }
        }
    }
}

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.set(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), value.to_owned());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value.to_string());
    }
}

fn level_name(level: Level, fatal: bool) -> (&'static str, &'static str) {
    match level {
        _ if fatal => ("FATAL", "\u{1b}[31m"),
        Level::ERROR => ("ERROR", "\u{1b}[31m"),
        Level::WARN => ("WARN", "\u{1b}[33m"),
        Level::INFO => ("INFO", "\u{1b}[34m"),
        Level::DEBUG | Level::TRACE => ("DEBUG", "\u{1b}[35m"),
    }
}

fn text_line(level: Level, place: &str, values: &Values, color: bool) -> String {
    let (name, paint) = level_name(level, values.fatal);
    let level = if color {
        format!("{paint}{name}\u{1b}[0m")
    } else {
        name.to_owned()
    };
    let mut line = format!("{}\t{level}\t{place}\t{}", stamp(), values.message);
    if !values.fields.is_empty() {
        line.push_str("\t{");
        for (index, (name, value)) in values.fields.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let name = serde_json::Value::from(name.as_str());
            let _ = write!(line, "{comma}{name}: {value}");
        }
        line.push('}');
    }
    line
}

fn json_line(level: Level, place: &str, values: &Values) -> String {
    let mut object = serde_json::Map::new();
    object.insert("time".to_owned(), stamp().into());
    object.insert(
        "level".to_owned(),
        level_name(level, values.fatal).0.to_lowercase().into(),
    );
    object.insert("place".to_owned(), place.into());
    object.insert("message".to_owned(), values.message.as_str().into());
    object.extend(values.fields.clone());
    serde_json::Value::Object(object).to_string()
}

/// `2006-01-02T15:04:05.000+0100`, `Z` for UTC.
fn stamp() -> String {
    let now = jiff::Zoned::now();
    let time = now.strftime("%Y-%m-%dT%H:%M:%S%.3f").to_string();
    let offset = now.offset().seconds();
    if offset == 0 {
        return format!("{time}Z");
    }
    let sign = if offset < 0 { '-' } else { '+' };
    let minutes = offset.unsigned_abs() / 60;
    format!("{time}{sign}{:02}{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::{Values, place, text_line};
    use tracing::Level;

    #[test]
    fn a_line_is_that_of_the_contract() {
        let mut values = Values::default();
        values.set("message", "replication role created".into());
        values.set("details", r#"{"role": "repl"}"#.into());
        values.set("said_at", "keeper.rs:1".into());
        assert_eq!(values.said_at.as_deref(), Some("keeper.rs:1"));
        let line = text_line(Level::INFO, "keeper.rs:1", &values, false);
        let parts: Vec<&str> = line.split('\t').collect();
        assert_eq!(
            parts.get(1..),
            Some(
                &[
                    "INFO",
                    "keeper.rs:1",
                    "replication role created",
                    r#"{"role": "repl"}"#
                ][..]
            )
        );
        assert_eq!(
            place(Some("crates/daemons/src/keeper/apply.rs"), Some(3)),
            "keeper/apply.rs:3"
        );
    }
}
