//! The step on its way, on a thread that it may block: a disk that hangs holds whoever writes to it,
//! and must hold neither the keeper's reports nor the end of an instance that others have replaced
//! (scenarios B8, B10).

use std::sync::Arc;
use std::time::Duration;

use stolon_core::keeper::decide::Step;
use stolon_core::keeper::facts::Disk;
use stolon_core::keeper::{Event, Outcome};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::instance::Instance;
use super::send;

/// How long a step that was given up may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Runs steps one after the other.
pub(super) struct Steps {
    instance: Arc<Instance>,
    events: mpsc::Sender<Event>,
    /// The newest one; there is never more than one beside one that hangs.
    running: Option<JoinHandle<()>>,
    /// Gives that one up.
    cancel: CancellationToken,
    /// Whether an earlier one was taken for hung, and has not ended yet.
    hangs: watch::Sender<bool>,
}

impl Steps {
    pub(super) fn new(instance: Arc<Instance>, events: mpsc::Sender<Event>) -> Self {
        Self {
            instance,
            events,
            running: None,
            cancel: CancellationToken::new(),
            hangs: watch::Sender::new(false),
        }
    }

    /// Begins one. While an instance runs, one that should be short and is not done within `limit`, or
    /// that was given up and does not end, is told as failed; until it has ended nothing else is done
    /// but to end the instance.
    pub(super) fn begin(&mut self, step: Step, limit: Duration) {
        let ends_instance = matches!(step, Step::Stop { .. } | Step::KillAll);
        if *self.hangs.borrow() && !ends_instance {
            self.running = Some(tokio::spawn(refuse(
                self.instance.clone(),
                self.events.clone(),
                self.hangs.subscribe(),
            )));
            return;
        }
        let limit = is_short(&step).then_some(limit);
        let (instance, events) = (self.instance.clone(), self.events.clone());
        self.cancel = CancellationToken::new();
        let (cancelled, hangs) = (self.cancel.clone(), self.hangs.clone());
        self.running = Some(tokio::spawn(async move {
            let name = step.failure_text();
            let mut work = on_own_thread(instance.clone(), step, cancelled.clone());
            let Some(ended) = ended(&mut work, limit, &cancelled, &instance).await else {
                hangs.send_replace(true);
                cancelled.cancel();
                let text = "not done in time: the disk may hang".to_owned();
                let outcome = Outcome::Failed(text, instance.last_inspected());
                send(&events, Event::StepEnded(outcome)).await;
                drop(work.await);
                let disk = inspected(instance).await;
                hangs.send_replace(false);
                tracing::info!(told = name, "the step that was taken for hung has ended");
                send(&events, Event::Inspected(disk)).await;
                return;
            };
            let outcome = match ended {
                Ok(outcome) => outcome,
                Err(error) => {
                    let text = format!("a defect of the keeper: {error}");
                    Outcome::Failed(text, inspected(instance.clone()).await)
                }
            };
            let has_started = matches!(outcome, Outcome::Started(_));
            send(&events, Event::StepEnded(outcome)).await;
            if has_started {
                instance.tell_of_the_end(&events);
            }
        }));
    }

    /// Gives the running one up.
    pub(super) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Ends the running one, because the keeper ends: one that goes on could start what is stopped
    /// next. Whether it has ended.
    pub(super) async fn end(&mut self) -> bool {
        self.cancel.cancel();
        let Some(running) = self.running.take() else {
            return true;
        };
        let has_ended = tokio::time::timeout(END_LIMIT, running).await.is_ok();
        if !has_ended {
            tracing::error!("a step does not end, the disk may hang: not waiting for it");
        }
        self.instance.end_restore().await;
        has_ended && !*self.hangs.borrow()
    }
}

/// What a step came to; none: it hangs.
async fn ended(
    work: &mut JoinHandle<Outcome>,
    limit: Option<Duration>,
    cancelled: &CancellationToken,
    instance: &Instance,
) -> Option<Result<Outcome, JoinError>> {
    let too_late = async {
        tokio::select! {
            () = cancelled.cancelled() => tokio::time::sleep(END_LIMIT).await,
            () = within(limit) => {}
        }
    };
    tokio::select! {
        biased;
        ended = &mut *work => return Some(ended),
        () = too_late => {}
    }
    if instance.postmaster().is_some() {
        return None;
    }
    // On data that cannot be seen nothing else can be done anyway.
    Some(work.await)
}

async fn within(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Looks at the data at rest, which may block.
async fn inspected(instance: Arc<Instance>) -> Disk {
    let runtime = Handle::current();
    let seeing = instance.clone();
    let look = tokio::task::spawn_blocking(move || runtime.block_on(seeing.inspect()));
    look.await.unwrap_or_else(|_| instance.last_inspected())
}

/// Answers for a step while an earlier one hangs. Only the end of a running instance need not wait for
/// that one; everything else is decided anew once it has ended.
async fn refuse(
    instance: Arc<Instance>,
    events: mpsc::Sender<Event>,
    mut hangs: watch::Receiver<bool>,
) {
    let outcome = if instance.postmaster().is_some() {
        let text = "an earlier step has not ended: the disk may hang".to_owned();
        Outcome::Failed(text, instance.last_inspected())
    } else {
        // An error would be the end of the keeper.
        drop(hangs.wait_for(|hangs| !hangs).await);
        Outcome::Cancelled(inspected(instance).await)
    };
    send(&events, Event::StepEnded(outcome)).await;
}

fn on_own_thread(
    instance: Arc<Instance>,
    step: Step,
    cancelled: CancellationToken,
) -> JoinHandle<Outcome> {
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        runtime.block_on(async {
            tokio::select! {
                // First: what was given up while it was blocked does not go on.
                biased;
                () = cancelled.cancelled() => instance.give_up().await,
                outcome = instance.run(step) => outcome,
            }
        })
    })
}

/// Whether a step ends soon unless something hangs, and may be repeated whenever it ended: a start
/// that is told as failed, and is none, would leave an instance that nobody knows of.
const fn is_short(step: &Step) -> bool {
    matches!(
        step,
        Step::SaveState(_)
            | Step::Claim { .. }
            | Step::Configure(_)
            | Step::SetUpRoles
            | Step::Slots { .. }
            | Step::Stir
            | Step::Discard
    )
}
