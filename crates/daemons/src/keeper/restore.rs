//! Data from a backup: restored beside PGDATA by the operator's command, then recovered.

use std::sync::PoisonError;
use std::time::Duration;

use stolon_core::keeper::facts::Observation;
use stolon_core::model::DbUid;
use stolon_postgres::{base_config, config_files, data_dir, restore};

use super::Error;
use super::instance::Instance;
use crate::runtime::clock;

/// How often the progress of a restore, and of a recovery, is told.
const PROGRESS: Duration = Duration::from_secs(5);

impl Instance {
    /// Has `command` restore data, and puts them beside PGDATA as those of `db`. One that was broken
    /// off is begun anew; one that was finished is not.
    pub(super) async fn restore(
        &self,
        db: &DbUid,
        command: &str,
        standby: bool,
    ) -> Result<(), Error> {
        let (pgdata, beside) = (self.local.pgdata(), self.local.beside());
        // Said now, and not after the hours that the restore may take.
        data_dir::refuse_mount_point(&pgdata)?;
        let restored = self.local.restored();
        if data_dir::identity(&restored)?.as_deref() != Some(db.as_str()) {
            tracing::info!(%db, command, "restoring the data by dataRestoreCommand");
            let began = clock::now();
            let tell = |bytes| {
                let seconds = clock::now().since(began).as_secs();
                tracing::info!(seconds, bytes, "restoring the data");
            };
            let hear = |line: &str| tracing::info!(output = line, "dataRestoreCommand says");
            restore::run(&restored, command, PROGRESS, hear, tell).await?;
            let system_id = self.startable(&restored).await?;
            // A backup may bring along what its source said of itself.
            data_dir::clear_identity(&restored)?;
            super::replaced::own(&restored)?;
            data_dir::remove_stale_pid_file(&restored)?;
            base_config::take(&restored)?;
            if standby {
                config_files::set_standby(&restored, true)?;
            } else {
                config_files::set_recovery(&restored)?;
            }
            data_dir::sync_file_system(&restored)?;
            data_dir::set_identity(&restored, db.as_str())?;
            let seconds = clock::now().since(began).as_secs();
            tracing::info!(seconds, system_id, "restore finished");
        }
        self.clear_beside(None).await?;
        Ok(data_dir::swap(&restored, &beside)?)
    }

    /// Ends what a restore that was given up left running.
    pub(super) async fn end_restore(&self) {
        if let Err(error) = restore::end(&self.local.restored()).await {
            tracing::error!(%error, "a restore that was given up still runs");
        }
    }

    /// Tells from time to time how far restored data are that recover. The numbers say nothing of
    /// how long it will take: where the WAL ends is in the archive.
    pub(super) fn tell_recovery(&self, seen: &Observation) {
        if !self.is_recovering() || !seen.in_recovery {
            return;
        }
        let now = clock::now();
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let told = looks.recovery_told_at;
        if told.is_some_and(|last| now.since(last) < PROGRESS) {
            return;
        }
        looks.recovery_told_at = Some(now);
        tracing::info!(
            replayed = %seen.replay_lsn,
            transactions_until = seen.replayed_until,
            "recovering"
        );
    }

    /// Whether the data in place are to end their recovery by a promotion.
    pub(super) fn is_recovering(&self) -> bool {
        config_files::is_recovery(&self.local.pgdata()).unwrap_or(false)
    }
}
