//! What a specification may say (contract, section 3).

use super::{AccessMode, ClusterInitMode, ClusterRole, ClusterSpec};
use crate::model::GoDuration;

/// Something a specification may not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecProblem {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What would be valid.
    pub valid: String,
}

impl std::fmt::Display for SpecProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} is {}: it must {}",
            self.field, self.value, self.valid
        )
    }
}

struct Problems(Vec<SpecProblem>);

impl Problems {
    fn require(
        &mut self,
        holds: bool,
        field: &'static str,
        value: impl std::fmt::Display,
        valid: &str,
    ) {
        if !holds {
            self.0.push(SpecProblem {
                field,
                value: format!("{value}"),
                valid: valid.to_owned(),
            });
        }
    }
}

impl ClusterSpec {
    /// All that is wrong with it.
    pub fn validate(&self) -> Result<(), Vec<SpecProblem>> {
        let mut problems = Problems(Vec::new());
        self.check_durations(&mut problems);
        self.check_numbers(&mut problems);
        self.check_modes(&mut problems);
        self.check_names(&mut problems);
        if problems.0.is_empty() {
            Ok(())
        } else {
            Err(problems.0)
        }
    }

    /// What is taken, as the Go program takes it, and is surely not meant.
    pub fn doubts(&self) -> Vec<SpecProblem> {
        let mut doubts = Problems(Vec::new());
        let effective = self.effective();
        let least = effective.min_synchronous_standbys;
        for (field, most) in [
            ("maxStandbys", effective.max_standbys),
            ("maxStandbysPerSender", effective.max_standbys_per_sender),
        ] {
            doubts.require(
                !effective.synchronous_replication || most >= least,
                field,
                most,
                &format!(
                    "be at least minSynchronousStandbys ({least}), or no transaction can be committed"
                ),
            );
        }
        doubts.0
    }

    /// What may not change in the life of a cluster.
    pub fn validate_update(&self, new: &Self) -> Result<(), Vec<SpecProblem>> {
        let mut problems = Problems(Vec::new());
        let mode = |spec: &Self| {
            spec.init_mode
                .clone()
                .map_or("unset".to_owned(), |m| m.to_string())
        };
        let valid = format!("stay {}, as the cluster was initialised", mode(self));
        problems.require(
            self.init_mode == new.init_mode,
            "initMode",
            mode(new),
            &valid,
        );
        let (before, after) = (self.effective().role, new.effective().role);
        let demoted = before == ClusterRole::Primary && after == ClusterRole::Standby;
        problems.require(
            !demoted,
            "role",
            &after,
            "stay master: a cluster cannot be made a standby cluster by an update",
        );
        if problems.0.is_empty() {
            Ok(())
        } else {
            Err(problems.0)
        }
    }

    fn check_durations(&self, problems: &mut Problems) {
        let durations = [
            ("sleepInterval", self.sleep_interval),
            ("requestTimeout", self.request_timeout),
            ("convergenceTimeout", self.convergence_timeout),
            ("initTimeout", self.init_timeout),
            ("syncTimeout", self.sync_timeout),
            ("dbWaitReadyTimeout", self.db_wait_ready_timeout),
            ("failInterval", self.fail_interval),
            (
                "deadKeeperRemovalInterval",
                self.dead_keeper_removal_interval,
            ),
            ("proxyCheckInterval", self.proxy_check_interval),
            ("proxyTimeout", self.proxy_timeout),
        ];
        for (field, duration) in durations {
            let duration = duration.unwrap_or_default();
            problems.require(
                duration >= GoDuration::default(),
                field,
                duration,
                "not be negative",
            );
        }
        let effective = self.effective();
        problems.require(
            effective.proxy_check_interval < effective.proxy_timeout,
            "proxyCheckInterval",
            GoDuration::from(effective.proxy_check_interval),
            &format!(
                "be less than proxyTimeout ({})",
                GoDuration::from(effective.proxy_timeout)
            ),
        );
    }

    fn check_numbers(&self, problems: &mut Problems) {
        let numbers = [
            ("maxStandbys", self.max_standbys),
            ("maxStandbysPerSender", self.max_standbys_per_sender),
            ("maxSynchronousStandbys", self.max_synchronous_standbys),
        ];
        for (field, number) in numbers {
            let number = number.unwrap_or(1);
            problems.require(number >= 1, field, number, "be at least 1");
        }
        let effective = self.effective();
        let least = effective.min_synchronous_standbys;
        problems.require(
            effective.max_synchronous_standbys >= least,
            "maxSynchronousStandbys",
            effective.max_synchronous_standbys,
            &format!("be at least minSynchronousStandbys ({least})"),
        );
    }

    fn check_modes(&self, problems: &mut Problems) {
        let role = self.role.clone().unwrap_or(ClusterRole::Primary);
        let standby = role == ClusterRole::Standby;
        let one_of = "be one of new, existing, pitr";
        match &self.init_mode {
            None => problems.require(false, "initMode", "not set", one_of),
            Some(ClusterInitMode::Unknown(mode)) => {
                problems.require(false, "initMode", format!("{mode:?}"), one_of);
            }
            Some(ClusterInitMode::New) => {
                problems.require(
                    !standby,
                    "role",
                    "standby",
                    "be master when initMode is new",
                );
            }
            Some(ClusterInitMode::Existing) => {
                let keeper = self
                    .existing_config
                    .as_ref()
                    .map(|config| &config.keeper_uid);
                problems.require(
                    keeper.is_some_and(|uid| !uid.is_empty()),
                    "existingConfig.keeperUID",
                    "not set",
                    "name the keeper that has the data when initMode is existing",
                );
            }
            Some(ClusterInitMode::Pitr) => self.check_pitr(standby, problems),
        }
        if let ClusterRole::Unknown(role) = &role {
            problems.require(
                false,
                "role",
                format!("{role:?}"),
                "be one of master, standby",
            );
        }
        let external = !standby || self.standby_config.is_some();
        problems.require(
            external,
            "standbyConfig",
            "not set",
            "be set when role is standby",
        );
        if let Some(AccessMode::Unknown(mode)) = &self.default_su_repl_access_mode {
            let mode = format!("{mode:?}");
            problems.require(
                false,
                "defaultSUReplAccessMode",
                mode,
                "be one of all, strict",
            );
        }
    }

    fn check_pitr(&self, standby: bool, problems: &mut Problems) {
        let config = self.pitr_config.as_ref();
        problems.require(
            config.is_some_and(|config| !config.data_restore_command.is_empty()),
            "pitrConfig.dataRestoreCommand",
            "not set",
            "be the command that restores the data when initMode is pitr",
        );
        let target = config.is_some_and(|config| config.recovery_target_settings.is_some());
        problems.require(
            !(standby && target),
            "pitrConfig.recoveryTargetSettings",
            "set",
            "not be set when role is standby",
        );
    }

    fn check_names(&self, problems: &mut Problems) {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        for name in self.additional_master_replication_slots.iter() {
            let valid = !name.is_empty() && name.chars().all(fits);
            problems.require(
                valid && !name.starts_with("stolon_"),
                "additionalMasterReplicationSlots",
                format!("{name:?}"),
                "be of a-z, 0-9 and _, and not begin with stolon_",
            );
        }
        for rule in self.pg_hba.iter() {
            let valid = !rule.contains('\n');
            problems.require(
                valid,
                "pgHBA",
                format!("{rule:?}"),
                "not contain newline characters",
            );
        }
    }
}
