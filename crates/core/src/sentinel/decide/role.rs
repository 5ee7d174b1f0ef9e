//! What the cluster's role asks of its first instance: to be a primary, or to follow a server outside
//! (contract, section 7).

use super::Draft;
use crate::model::spec::ClusterRole;
use crate::model::{DbSpec, EffectiveSpec, FollowConfig, FollowType, Role};
use crate::reason::Reason;

/// The role and the source of the instance that the others follow.
pub(super) fn of_source(spec: &EffectiveSpec) -> (Role, Option<FollowConfig>) {
    match &spec.role {
        ClusterRole::Primary | ClusterRole::Unknown(_) => (Role::Primary, None),
        ClusterRole::Standby => {
            let config = spec.standby_config.clone().unwrap_or_default();
            let follow = FollowConfig {
                follow_type: Some(FollowType::External),
                standby_settings: config.standby_settings,
                archive_recovery_settings: config.archive_recovery_settings,
                ..FollowConfig::default()
            };
            (Role::Standby, Some(follow))
        }
    }
}

/// Makes a db the one that the others follow.
pub(super) fn crown(db: &mut DbSpec, spec: &EffectiveSpec) {
    let (role, follow) = of_source(spec);
    db.role = Some(role);
    db.follow_config = follow;
}

/// Has the present source follow what the operator named last, or nobody any more.
pub(super) fn decide(draft: &mut Draft<'_>) {
    let Some(primary) = draft.primary().cloned() else {
        return;
    };
    let (role, follow) = of_source(&draft.spec);
    let now = (&primary.spec.role, &primary.spec.follow_config);
    if super::is_source(&primary) != Some(true) || now == (&Some(role.clone()), &follow) {
        return;
    }
    let reason = match (&primary.spec.role, &role) {
        (Some(Role::Primary), Role::Standby) => {
            let text = "a cluster that has a primary cannot be made a standby cluster: its role is \
                        left as it is";
            draft.because(Reason::error("role-kept", text).with("db", &primary.uid));
            return;
        }
        (Some(Role::Standby), Role::Primary) => {
            let text = "the standby cluster becomes its own master: its first standby is promoted";
            Reason::warn("cluster-promoted", text)
        }
        _ => {
            let text = "the standby cluster follows its source by other settings";
            Reason::info("source-changed", text)
        }
    };
    draft.because(
        reason
            .with("db", &primary.uid)
            .with("keeper", &primary.spec.keeper_uid),
    );
    let spec = draft.spec.clone();
    draft.edit_db(&primary.uid, |db| crown(db, &spec));
}
