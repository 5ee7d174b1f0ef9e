//! The primary that data are rewound to.

use std::time::Duration;

use stolon_core::model::TimelineId;

use crate::outside::{self, Outside};
use crate::query::Session;
use crate::{Error, Installation};

/// What has to be known of it before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its system identifier.
    pub system_id: String,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// The timeline of its last checkpoint, from which `pg_rewind` takes the above before version 16.
    pub checkpoint_timeline: TimelineId,
    /// Bytes of its WAL, all of which is copied.
    pub wal_bytes: u64,
}

const LOOK: &str = "SELECT (SELECT system_identifier FROM pg_control_system()),
    pg_is_in_recovery(), current_setting('full_page_writes'),
    CASE WHEN pg_is_in_recovery() THEN NULL
         ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END,
    (SELECT timeline_id FROM pg_control_checkpoint()),
    (SELECT sum(size)::bigint FROM pg_ls_waldir())";

impl Source {
    /// Asks the primary.
    ///
    /// # Errors
    ///
    /// When it does not answer, or data cannot be rewound to it as it is.
    pub async fn look(session: &Session) -> Result<Self, Error> {
        let rows = session.rows("the source of a rewind", LOOK).await?;
        Self::understand(&rows.into_iter().next().unwrap_or_default())
    }

    /// Asks a server outside, of which who connects has to be allowed to read all files.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn look_outside(
        installation: &Installation,
        server: &Outside,
        limit: Duration,
    ) -> Result<Self, Error> {
        let said = outside::ask(installation, server, &super::DATABASE, &[LOOK], limit).await?;
        let words = said.trim().split('|');
        let row: Vec<_> = words
            .map(|word| Some(word.to_owned()).filter(|word| !word.is_empty()))
            .collect();
        Self::understand(&row)
    }

    fn understand(row: &[Option<String>]) -> Result<Self, Error> {
        let text = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
        let malformed = || Error::Malformed {
            what: "the source of a rewind",
            text: format!("{row:?}"),
        };
        if text(1) != "f" {
            return Err(Error::Rewound("the source is not writable".to_owned()));
        }
        if text(2) != "on" {
            let why = "the source runs with full_page_writes off: a rewind needs it on";
            return Err(Error::Rewound(why.to_owned()));
        }
        let timeline = u64::from_str_radix(&text(3), 16).map_err(|_| malformed())?;
        Ok(Self {
            system_id: text(0),
            timeline: TimelineId(timeline),
            checkpoint_timeline: TimelineId(text(4).parse().map_err(|_| malformed())?),
            wal_bytes: text(5).parse().map_err(|_| malformed())?,
        })
    }
}
