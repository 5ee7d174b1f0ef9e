//! Taking data over that came from elsewhere: another cluster, the Go program, somebody's hand.

use stolon_core::model::DbUid;
use stolon_postgres::{base_config, config_files, data_dir};

use super::Error;
use super::instance::Instance;
use super::replaced;

impl Instance {
    /// Makes the data in place those of `db`. All that is checked is checked before anything changes,
    /// and whatever was broken off is done again from its beginning.
    pub(super) async fn take_over(&self, db: &DbUid, standby: bool) -> Result<(), Error> {
        let pgdata = self.local.pgdata();
        let system_id = self.startable(&pgdata).await?;
        tracing::info!(
            %db,
            system_id,
            path = %pgdata.display(),
            "taking over a data directory as it is"
        );
        self.keep_beside().await?;
        base_config::take(&pgdata)?;
        data_dir::remove_stale_pid_file(&pgdata)?;
        // What was to recover goes on as a standby, and is promoted.
        if standby || config_files::is_recovery(&pgdata)? {
            config_files::set_standby(&pgdata, true)?;
        }
        replaced::own(&pgdata)?;
        Ok(data_dir::set_identity(&pgdata, db.as_str())?)
    }

    /// The system identifier of data that PostgreSQL's programs here can start.
    pub(super) async fn startable(&self, folder: &std::path::Path) -> Result<String, Error> {
        let found = data_dir::major_version(folder)?;
        let ours = self.installation.version().major;
        if found != Some(ours) {
            let found = found.map_or("an unknown version".to_owned(), |major| major.to_string());
            return Err(Error::DataDir(format!(
                "the data in {} are those of PostgreSQL {found}, and this keeper runs {ours} \
                 (--pg-bin-path)",
                folder.display()
            )));
        }
        self.system_id(folder).await?.ok_or_else(|| {
            let text = "there is no whole database cluster in";
            Error::DataDir(format!("{text} {}", folder.display()))
        })
    }
}
