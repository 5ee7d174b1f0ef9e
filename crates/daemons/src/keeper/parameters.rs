//! Keeping parameters that PostgreSQL does not take out of its configuration.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use stolon_core::keeper::decide::is_managed;
use stolon_postgres::config_files::{self, Configuration};
use stolon_postgres::{Error, check};

use super::instance::Instance;

/// How often it is asked again after what was refused was taken out.
const MOST_ROUNDS: usize = 20;
/// The one parameter that changes with events in the cluster; the keeper makes it of names it knows.
const NOT_CHECKED: &str = "synchronous_standby_names";

type Parameters = BTreeMap<String, String>;

/// What came of the last check.
#[derive(Debug, Default)]
pub(super) struct Checked {
    asked: Option<(Parameters, bool)>,
    taken: Parameters,
    /// With PostgreSQL's reasons.
    refused: Parameters,
}

impl Instance {
    /// The parameters that are not in force, each with the reason.
    pub(super) fn refused_parameters(&self) -> Parameters {
        self.lock_checked().refused.clone()
    }

    /// Takes those out of `configuration` that PostgreSQL would refuse; where one had another value
    /// before, that one stays in force. Where PostgreSQL cannot be asked, or complains of something
    /// else, all parameters but those the keeper changes stay as they were.
    pub(super) async fn leave_out_refused(
        &self,
        configuration: &mut Configuration,
    ) -> Result<(), Error> {
        let mut parameters = configuration.parameters.clone();
        let names = parameters.remove(NOT_CHECKED);
        let asked = Some((parameters, configuration.include_base));
        if self.lock_checked().asked != asked {
            let before = config_files::present_parameters(&self.local.pgdata())?;
            let mut checked = match self.check(configuration, &before).await {
                Ok(checked) => Checked { asked, ..checked },
                Err(error) => {
                    tracing::error!(%error, "cannot check the parameters: they stay as they were");
                    let why = format!("they cannot be checked: {error}");
                    as_before(configuration, before, why)
                }
            };
            checked.taken.remove(NOT_CHECKED);
            *self.lock_checked() = checked;
        }
        configuration
            .parameters
            .clone_from(&self.lock_checked().taken);
        let names = names.map(|names| (NOT_CHECKED.to_owned(), names));
        configuration.parameters.extend(names);
        Ok(())
    }

    async fn check(
        &self,
        configuration: &Configuration,
        before: &Parameters,
    ) -> Result<Checked, Error> {
        let pgdata = self.local.pgdata();
        let told = self.refused_parameters();
        let mut candidate = configuration.clone();
        let mut refused = Parameters::new();
        for _ in 0..MOST_ROUNDS {
            let found = check::refused_parameters(&self.installation, &pgdata, &candidate).await?;
            if found.is_empty() {
                return Ok(Checked {
                    asked: None,
                    taken: candidate.parameters,
                    refused,
                });
            }
            for (complained_of, why) in found {
                // PostgreSQL names a parameter in its own spelling.
                let mut names = candidate.parameters.keys();
                let name = names.find(|name| name.eq_ignore_ascii_case(&complained_of));
                let Some(name) = name.filter(|name| *name != NOT_CHECKED).cloned() else {
                    return Err(Error::Malformed {
                        what: "configuration beside the parameters",
                        text: why,
                    });
                };
                let value = candidate.parameters.remove(&name).unwrap_or_default();
                if told.get(&name) != Some(&why) {
                    tracing::error!(
                        parameter = name,
                        value,
                        why,
                        "PostgreSQL does not take this parameter: it stays as it was"
                    );
                }
                let old = before.get(&name).filter(|old| **old != value);
                if let Some(old) = old.filter(|_| !refused.contains_key(&name)) {
                    candidate.parameters.insert(name.clone(), old.clone());
                }
                refused.entry(name).or_insert(why);
            }
        }
        Err(Error::Malformed {
            what: "configuration",
            text: format!("{refused:?}"),
        })
    }

    fn lock_checked(&self) -> std::sync::MutexGuard<'_, Checked> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The users' parameters of before, and the keeper's of now; it is asked again at the next change.
fn as_before(wanted: &Configuration, before: Parameters, why: String) -> Checked {
    let managed = wanted.parameters.iter();
    let managed = managed.filter(|(name, _)| is_managed(name));
    let mut taken = before;
    taken.retain(|name, _| !is_managed(name) && wanted.parameters.contains_key(name));
    taken.extend(managed.map(|(name, value)| (name.clone(), value.clone())));
    Checked {
        asked: None,
        taken,
        refused: Parameters::from([("all".to_owned(), why)]),
    }
}
