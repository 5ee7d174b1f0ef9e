//! Roles and their passwords.

use postgres_protocol::password;

use super::{Session, identifier, literal};
use crate::Error;

impl Session {
    /// Whether a role exists, and whether it may replicate.
    pub async fn role(&self, name: &str) -> Result<Option<bool>, Error> {
        let sql = format!(
            "SELECT rolreplication FROM pg_roles WHERE rolname = {}",
            literal(name)
        );
        let rows = self.rows("role", &sql).await?;
        Ok(rows
            .first()
            .map(|row| row.first().cloned().flatten().as_deref() == Some("t")))
    }

    /// Which of some users have a stored password that only md5 takes.
    pub async fn md5_verifiers(&self, users: &[&str]) -> Result<Vec<String>, Error> {
        let users: Vec<String> = users.iter().map(|user| literal(user)).collect();
        let sql = format!(
            "SELECT rolname FROM pg_authid WHERE rolpassword LIKE 'md5%' AND rolname IN ({})
             ORDER BY rolname",
            users.join(", ")
        );
        let rows = self.rows("stored passwords", &sql).await?;
        Ok(rows.into_iter().flatten().flatten().collect())
    }

    /// Makes, or alters, a role that may log in and replicate; `scram`: whatever the server's
    /// `password_encryption`, its password is stored for SCRAM.
    pub async fn set_replication_role(
        &self,
        name: &str,
        password: Option<&str>,
        scram: bool,
        create: bool,
    ) -> Result<(), Error> {
        let verb = if create { "CREATE" } else { "ALTER" };
        let mut sql = format!("{verb} ROLE {} WITH LOGIN REPLICATION", identifier(name));
        if let Some(password) = password {
            let verifier = if scram {
                password::scram_sha_256(password.as_bytes())
            } else {
                self.verifier(name, password).await?
            };
            sql.push_str(" PASSWORD ");
            sql.push_str(&literal(&verifier));
        }
        self.execute_unlogged("set the replication role", &sql)
            .await
    }

    /// Sets a role's password.
    pub async fn set_password(&self, name: &str, password: &str) -> Result<(), Error> {
        let verifier = literal(&self.verifier(name, password).await?);
        let sql = format!("ALTER ROLE {} WITH PASSWORD {verifier}", identifier(name));
        self.execute_unlogged("set a password", &sql).await
    }

    /// What the server stores of a password (PostgreSQL manual, "Password Authentication"), made
    /// here: the password itself never reaches a log, a statistics view or an extension.
    async fn verifier(&self, name: &str, password: &str) -> Result<String, Error> {
        let sql = "SELECT current_setting('password_encryption')";
        let rows = self.rows("password_encryption", sql).await?;
        let method = rows.into_iter().flatten().flatten().next();
        Ok(match method.as_deref() {
            Some("scram-sha-256") => password::scram_sha_256(password.as_bytes()),
            // "on" and its like mean md5 before version 14.
            _ => password::md5(password.as_bytes(), name),
        })
    }

    /// Runs a statement that the server's log must not show. The server decides whether to log a
    /// text before it runs any of it, so the settings need a message of their own.
    async fn execute_unlogged(&self, what: &'static str, sql: &str) -> Result<(), Error> {
        self.execute(what, QUIET).await?;
        let outcome = self.execute(what, sql).await;
        let restored = self.execute(what, LOUD).await;
        outcome.and(restored)
    }
}

/// Keeps the next statements out of the log, as far as this version of the server has the settings.
const QUIET: &str = "SELECT set_config(name, value, false) FROM pg_settings JOIN (VALUES
        ('log_statement', 'none'), ('log_min_error_statement', 'panic'),
        ('log_min_duration_statement', '-1'), ('log_min_duration_sample', '-1'),
        ('log_transaction_sample_rate', '0'), ('log_duration', 'off')
    ) AS quiet (name, value) USING (name)";

/// Undoes [`QUIET`].
const LOUD: &str = "SELECT set_config(name, reset_val, false) FROM pg_settings WHERE name IN
    ('log_statement', 'log_min_error_statement', 'log_min_duration_statement',
     'log_min_duration_sample', 'log_transaction_sample_rate', 'log_duration')";
