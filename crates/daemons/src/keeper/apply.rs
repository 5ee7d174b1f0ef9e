//! Running the steps that core decides. Each may be repeated after a crash at any point of it.

use std::sync::PoisonError;
use std::time::Duration;

use stolon_core::keeper::Outcome;
use stolon_core::keeper::decide::{Follow, SCRAM, Start, Step, Wanted};
use stolon_core::model::DbUid;
use stolon_core::model::spec::NewConfig;
use stolon_core::time::Instant;
use stolon_postgres::config_files::{self, Configuration};
use stolon_postgres::conninfo::ConnInfo;
use stolon_postgres::outside::Outside;
use stolon_postgres::process::{self, Postmaster};
use stolon_postgres::query::{Session, Target};
use stolon_postgres::{base_config, basebackup, data_dir, history, initdb, receiver};

use super::Error;
use super::instance::Instance;
use super::replaced;
use crate::runtime::{clock, logging};

/// How often the progress of a copy is told.
const COPY_PROGRESS: Duration = Duration::from_secs(5);
/// Bound on a query of a step.
pub(super) const QUERY_LIMIT: Duration = Duration::from_secs(10);

impl Instance {
    /// Runs a step.
    pub(super) async fn run(&self, step: Step) -> Outcome {
        let starts = matches!(step, Step::Start { .. });
        let result = self.try_run(step).await;
        let disk = self.inspect().await;
        match result {
            Ok(()) if starts => Outcome::Started(disk),
            Ok(()) => Outcome::Done(disk),
            Err(error) => Outcome::Failed(error.to_string(), disk),
        }
    }

    /// What is left of a step that was given up.
    pub(super) async fn give_up(&self) -> Outcome {
        self.end_restore().await;
        Outcome::Cancelled(self.inspect().await)
    }

    async fn try_run(&self, step: Step) -> Result<(), Error> {
        let pgdata = self.local.pgdata();
        match step {
            Step::SaveState(state) => {
                if state.initializing {
                    self.disown_unfinished()?;
                }
                self.local.save_db_state(&state)
            }
            Step::Initialize { db, config } => self.initialize(&db, &config).await,
            Step::Restore {
                db,
                command,
                standby,
            } => self.restore(&db, &command, standby).await,
            Step::Copy {
                db,
                source,
                may_discard,
            } => self.copy(&db, &source, may_discard).await,
            Step::Rewind {
                db,
                source,
                recover_first,
                restore_command,
            } => {
                self.rewind(&db, &source, recover_first, restore_command.as_deref())
                    .await
            }
            Step::FromOutside {
                db,
                conninfo,
                system_id,
                rewind,
            } => {
                let outside = Outside::from_setting(&conninfo);
                self.take_from_outside(&db, &outside, &system_id, rewind)
                    .await
            }
            Step::Swap { db } => self.swap(&db),
            Step::Discard => self.discard().await,
            Step::Claim { db } => {
                replaced::own(&pgdata)?;
                Ok(data_dir::set_identity(&pgdata, db.as_str())?)
            }
            Step::TakeOver { db, standby } => self.take_over(&db, standby).await,
            Step::Configure(wanted) => self.configure(&wanted).await,
            Step::Start { db } => self.start(&db),
            Step::Checkpoint => {
                self.checkpoint().await;
                Ok(())
            }
            Step::Stop { why, patience } => {
                tracing::info!(why, "stopping postgres");
                Ok(self.stop(patience).await?)
            }
            Step::KillAll => self.kill_all().await,
            Step::SetUpRoles => self.set_up_roles().await,
            Step::Slots {
                drop,
                create,
                advance,
            } => self.set_slots(&drop, &create, &advance).await,
            Step::Stir => self.stir().await,
            Step::Promote { slots, taken } => self.promote(&slots, &taken).await,
            // Core does it itself.
            Step::Release { .. } => Ok(()),
        }
    }

    async fn take_from_outside(
        &self,
        db: &DbUid,
        outside: &Outside,
        system_id: &str,
        rewind: bool,
    ) -> Result<(), Error> {
        if rewind {
            self.rewind_to_outside(db, outside).await
        } else {
            self.copy_outside(db, outside, system_id).await
        }
    }

    async fn discard(&self) -> Result<(), Error> {
        tracing::info!("removing the old copy of the data");
        let present = self.system_id(&self.local.pgdata()).await?;
        self.discard_beside(present.as_deref()).await
    }

    async fn kill_all(&self) -> Result<(), Error> {
        let pgdata = self.local.pgdata();
        self.end_session().await;
        process::kill_all(&pgdata).await?;
        self.forget_looks();
        Ok(data_dir::remove_stale_pid_file(&pgdata)?)
    }

    async fn initialize(&self, db: &DbUid, config: &NewConfig) -> Result<(), Error> {
        let beside = self.local.beside();
        let superuser = &self.config.superuser;
        let options = initdb::Options {
            superuser: superuser.name.clone(),
            password: self.passwords.superuser(),
            scram: superuser.method == SCRAM,
            locale: config.locale.clone(),
            encoding: config.encoding.clone(),
            data_checksums: config.data_checksums,
        };
        tracing::info!(%db, "initializing the database cluster");
        self.clear_beside(None).await?;
        initdb::run(&self.installation, &beside, &options).await?;
        if superuser.password.is_some() {
            tracing::info!("superuser password set");
        }
        config_files::keep_base(&beside)?;
        Ok(data_dir::set_identity(&beside, db.as_str())?)
    }

    /// A superuser's session with the db that is followed.
    pub(super) async fn session_with(
        &self,
        source: &Follow,
        limit: Duration,
    ) -> Result<Session, stolon_postgres::Error> {
        let target = Target {
            host: source.host.clone(),
            port: source.port.parse().unwrap_or(0),
            ..self.target()
        };
        Session::connect(&target, limit).await
    }

    pub(super) fn conninfo(&self, follow: &Follow) -> ConnInfo {
        let user = &self.config.replication_user;
        ConnInfo {
            application_name: follow.name.clone(),
            host: follow.host.clone(),
            port: follow.port.clone(),
            user: user.name.clone(),
            password: self.passwords.replication().unwrap_or_default(),
            tls: self.config.tls.clone(),
        }
    }

    async fn configure(&self, wanted: &Wanted) -> Result<(), Error> {
        let pgdata = self.local.pgdata();
        let mut configuration = Configuration {
            parameters: wanted.parameters.clone(),
            include_base: wanted.include_base,
            access_rules: wanted.access_rules.clone(),
            raw: wanted.recovery.clone(),
        };
        if let Some(follow) = &wanted.follow {
            configuration.follow(&self.conninfo(follow), &follow.name);
        }
        if wanted.own_archive
            && let Some(command) = base_config::restore_command(&pgdata)?
        {
            tracing::info!(
                command,
                "fetching WAL as the data were set up for, until they are promoted"
            );
            configuration
                .raw
                .insert("restore_command".to_owned(), command);
        }
        let source = wanted.recovery.get("primary_conninfo");
        let source = source.filter(|_| wanted.start == Start::Standby);
        self.source
            .follow(source.map(|text| Outside::from_setting(text)));
        self.leave_out_refused(&mut configuration).await?;
        self.leave_out_refused_rules(&mut configuration.access_rules);
        let before = config_files::access_rules(&pgdata)?;
        let changed = config_files::write(&pgdata, &configuration)?;
        let Some(postmaster) = self.postmaster() else {
            match wanted.start {
                Start::Primary => config_files::set_standby(&pgdata, false)?,
                Start::Standby => config_files::set_standby(&pgdata, true)?,
                // The restore has asked for it, and PostgreSQL takes that away when it is done.
                Start::Recovery => {}
            }
            return Ok(());
        };
        if changed.parameters {
            tracing::info!("postgres parameters changed, reloading postgres instance");
        }
        if changed.access_rules || !self.are_checked(&configuration.access_rules) {
            self.check_rules(&pgdata, &before).await?;
        }
        if changed.access_rules {
            tracing::info!("postgres hba entries changed, reloading postgres instance");
        }
        // Also when nothing changed: a keeper killed between writing and reloading comes here.
        Ok(postmaster.reload()?)
    }

    fn start(&self, db: &DbUid) -> Result<(), Error> {
        let pgdata = self.local.pgdata();
        // Somebody's single-user server: without its pid file nothing would keep the two apart.
        let running = data_dir::processes(&pgdata);
        if !running.is_empty() {
            return Err(Error::DataDir(format!(
                "other processes of postgres run on the data: {running:?}"
            )));
        }
        data_dir::remove_stale_pid_file(&pgdata)?;
        history::forget_passed_over(&pgdata)?;
        self.forget_looks();
        tracing::info!(%db, "starting postgres");
        let socket = self.config.socket_folder.display().to_string();
        let settings = [("unix_socket_directories".to_owned(), socket)];
        self.forget_stream_error();
        let complaints = self.stream_error.clone();
        let hear = move |line: String| {
            if let Some(complaint) = receiver::complaint(&line) {
                let mut last = complaints.lock().unwrap_or_else(PoisonError::into_inner);
                complaint.clone_into(&mut last);
            }
            logging::write_line(line);
        };
        let postmaster = Postmaster::start(&self.installation, &pgdata, &settings, hear)?;
        self.take(postmaster);
        Ok(())
    }
}

/// Tells how far the making of data is, now and then.
pub(super) fn telling(what: &'static str) -> impl FnMut(basebackup::Progress) + Send {
    let began = clock::now();
    let mut told: Option<Instant> = None;
    move |progress| {
        let now = clock::now();
        if told.is_some_and(|last| now.since(last) < COPY_PROGRESS) {
            return;
        }
        told = Some(now);
        let rate = progress.done_kib / now.since(began).as_secs().max(1);
        tracing::info!(
            percent = progress.percent(),
            done_kib = progress.done_kib,
            total_kib = progress.total_kib,
            kib_per_second = rate,
            "{what}"
        );
    }
}
