//! Access rules.

use super::Session;
use crate::Error;

impl Session {
    /// The lines of the access rules, as they now stand in the file, that PostgreSQL does not take: the
    /// number of each, from 1, and why.
    pub async fn wrong_access_rules(&self) -> Result<Vec<(usize, String)>, Error> {
        // A line that it reads and warns of it takes: hostssl, where TLS is about to be turned on.
        let sql = "SELECT line_number, error FROM pg_hba_file_rules
            WHERE error IS NOT NULL AND type IS NULL ORDER BY line_number";
        let rows = self.rows("check the access rules", sql).await?;
        let wrong = |row: Vec<Option<String>>| {
            let mut words = row.into_iter();
            Some((words.next()??.parse().ok()?, words.next()??))
        };
        Ok(rows.into_iter().filter_map(wrong).collect())
    }
}
