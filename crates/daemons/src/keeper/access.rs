//! Keeping the users' access rules that PostgreSQL does not take out of force.
//!
//! A running server that is told to reload keeps its rules where one of the new ones is wrong; at its
//! next start it refuses all. Lines are read in order, so that one left out could let in whom it was to
//! keep out: the users' part of before stays in force, whole.

use std::path::Path;
use std::sync::PoisonError;

use stolon_core::keeper::decide::lets_users_in;
use stolon_postgres::config_files;

use super::Error;
use super::instance::Instance;

/// What came of the users' rules.
#[derive(Debug, Default)]
pub(super) struct Access {
    /// The last ones that PostgreSQL took.
    good: Option<Vec<String>>,
    /// The ones that it does not take, and why.
    refused: Option<(Vec<String>, String)>,
}

impl Instance {
    /// Why the users' access rules are not in force, when they are not.
    pub(super) fn refused_access_rules(&self) -> Option<String> {
        let access = self.lock_access();
        access.refused.as_ref().map(|(_, why)| why.clone())
    }

    /// Puts the users' rules of before in the place of those that PostgreSQL is known not to take.
    pub(super) fn leave_out_refused_rules(&self, rules: &mut Vec<String>) {
        let (_, users) = self.parts(rules);
        let mut access = self.lock_access();
        // While users are kept out nothing is known of their rules.
        if users.is_empty() {
            return;
        }
        match &access.refused {
            Some((refused, _)) if *refused == users => {
                let good = access.good.clone().unwrap_or_default();
                rules.truncate(rules.len() - users.len());
                rules.extend(good);
            }
            Some(_) | None => access.refused = None,
        }
    }

    /// Whether PostgreSQL has taken the users' part of these rules: a keeper that is held up between
    /// writing and asking has not asked.
    pub(super) fn are_checked(&self, rules: &[String]) -> bool {
        let (_, users) = self.parts(rules);
        users.is_empty() || self.lock_access().good.as_ref() == Some(&users)
    }

    /// Asks a running instance whether it takes the rules that were just written, and puts the users'
    /// part of `before` back where it does not. Where it cannot be asked, a saturated one say, they are
    /// left: it goes on with its own when they are wrong.
    pub(super) async fn check_rules(&self, pgdata: &Path, before: &str) -> Result<(), Error> {
        let written = config_files::access_rules(pgdata)?;
        let rules: Vec<String> = written.lines().map(str::to_owned).collect();
        let (own, users) = self.parts(&rules);
        if users.is_empty() {
            return Ok(());
        }
        let asked = self.with_session(async |session| session.wrong_access_rules().await);
        let wrong = match asked.await {
            Ok(wrong) => wrong,
            Err(error) => {
                tracing::warn!(%error, "cannot check the access rules");
                return Ok(());
            }
        };
        let Some((number, why)) = wrong.first() else {
            self.lock_access().good = Some(users);
            return Ok(());
        };
        let line = number.checked_sub(1).and_then(|index| rules.get(index));
        let why = format!("pgHBA {:?}: {why}", line.cloned().unwrap_or_default());
        tracing::error!(
            why,
            "PostgreSQL does not take the access rules: the users' stay as they were"
        );
        let good = {
            let mut access = self.lock_access();
            let before: Vec<String> = before.lines().map(str::to_owned).collect();
            let (_, before) = self.parts(&before);
            let good = access.good.get_or_insert(before).clone();
            access.refused = Some((users, why));
            good
        };
        let rules: Vec<String> = own.into_iter().chain(good).collect();
        Ok(config_files::write_access_rules(pgdata, &rules)?)
    }

    /// The keeper's own rules, which come first, and the users'.
    fn parts(&self, rules: &[String]) -> (Vec<String>, Vec<String>) {
        let users = (
            &self.config.superuser.name,
            &self.config.replication_user.name,
        );
        let is_own = |rule: &String| !lets_users_in(std::slice::from_ref(rule), users.0, users.1);
        let own = rules.iter().take_while(|rule| is_own(rule)).count();
        let (own, users) = rules.split_at(own);
        (own.to_vec(), users.to_vec())
    }

    fn lock_access(&self) -> std::sync::MutexGuard<'_, Access> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
