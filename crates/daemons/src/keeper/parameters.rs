//! Keeping parameters that PostgreSQL does not take out of its configuration.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use stolon_core::keeper::decide::is_managed;
use stolon_postgres::config_files::{self, Configuration};
use stolon_postgres::{Error, check};

use super::instance::Instance;

/// How often it is asked again after what was refused was taken out.
const MOST_ROUNDS: usize = 20;

type Parameters = BTreeMap<String, String>;

/// What came of the last check.
#[derive(Debug, Default)]
pub(super) struct Checked {
    asked: Parameters,
    taken: Parameters,
    /// With PostgreSQL's reasons.
    refused: Parameters,
}

impl Instance {
    /// The users' parameters that are not in force, each with the reason.
    pub(super) fn refused_parameters(&self) -> Parameters {
        self.lock_checked().refused.clone()
    }

    /// Takes those of the users' parameters out of `configuration` that PostgreSQL would refuse;
    /// where one had another value before, that one stays in force.
    pub(super) async fn leave_out_refused(&self, configuration: &mut Configuration) {
        let asked: Parameters = configuration
            .parameters
            .iter()
            .filter(|(name, _)| !is_managed(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let known = {
            let last = self.lock_checked();
            (last.asked == asked).then(|| last.taken.clone())
        };
        let taken = match known {
            Some(taken) => taken,
            None => match self.check(configuration, &asked).await {
                Ok(checked) => {
                    let taken = checked.taken.clone();
                    *self.lock_checked() = checked;
                    taken
                }
                Err(error) => {
                    // It says nothing of any parameter: PostgreSQL is to say it itself.
                    tracing::warn!(%error, "cannot check the parameters before they are applied");
                    return;
                }
            },
        };
        configuration.parameters.retain(|name, _| is_managed(name));
        configuration.parameters.extend(taken);
    }

    async fn check(
        &self,
        configuration: &Configuration,
        asked: &Parameters,
    ) -> Result<Checked, Error> {
        let pgdata = self.local.pgdata();
        let before = config_files::present_parameters(&pgdata)?;
        let told = self.refused_parameters();
        let mut candidate = configuration.clone();
        let mut refused = Parameters::new();
        for _ in 0..MOST_ROUNDS {
            let found = check::refused_parameters(&self.installation, &pgdata, &candidate).await?;
            if found.is_empty() {
                break;
            }
            for (name, why) in found {
                let value = candidate.parameters.remove(&name);
                if is_managed(&name) || value.is_none() {
                    return Err(Error::Malformed {
                        what: "parameter that is not the users'",
                        text: why,
                    });
                }
                if told.get(&name) != Some(&why) {
                    let value = value.clone().unwrap_or_default();
                    tracing::error!(
                        parameter = name,
                        value,
                        why,
                        "PostgreSQL does not take this parameter: it stays as it was"
                    );
                }
                let old = before.get(&name).filter(|old| Some(*old) != value.as_ref());
                if let Some(old) = old.filter(|_| !refused.contains_key(&name)) {
                    candidate.parameters.insert(name.clone(), old.clone());
                }
                refused.entry(name).or_insert(why);
            }
        }
        candidate.parameters.retain(|name, _| !is_managed(name));
        Ok(Checked {
            asked: asked.clone(),
            taken: candidate.parameters,
            refused,
        })
    }

    fn lock_checked(&self) -> std::sync::MutexGuard<'_, Checked> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
