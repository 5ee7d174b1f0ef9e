//! What must never happen in a keeper's world.

use stolon_core::keeper::decide::{Step, synchronous_standby_names};
use stolon_core::keeper::facts::{Content, DbState, Health};
use stolon_core::model::InitMode;

use super::acts::Place;
use super::{US, World, boot_name};

impl World {
    /// A generation is told only when what it asks for is in force.
    pub(super) fn save_state(&mut self, state: &DbState) {
        let spec = self.specs.get(&(state.uid.clone(), state.generation));
        // It may have died since the decision.
        if let (Some(db), Some(server)) = (spec, &self.server) {
            assert_eq!(
                self.pgdata.data.owner, state.uid,
                "acknowledged for another"
            );
            let in_force = &server.in_force;
            let from_elsewhere =
                matches!(db.spec.init_mode, Some(InitMode::Existing | InitMode::Pitr))
                    && server.writable;
            let has_roles = self.pgdata.data.roles || !from_elsewhere;
            assert!(has_roles, "acknowledged without roles");
            let names = in_force.parameters.get("synchronous_standby_names");
            if server.writable {
                let asked = synchronous_standby_names(&db.spec);
                assert_eq!(names, Some(&asked), "acknowledged before it is in force");
                for follower in db.spec.followers.iter() {
                    let slot = follower.replication_name();
                    assert!(self.pgdata.data.slots.contains_key(&slot), "no slot {slot}");
                }
            }
            for (name, value) in &db.spec.pg_parameters {
                // A standby may have more than it is asked to have, for its primary's sake.
                let raised = !server.writable && name == "max_connections";
                assert!(
                    raised || in_force.parameters.get(name) == Some(value),
                    "{name}"
                );
            }
        }
        self.state = Some(state.clone());
    }

    /// The only good copy is never removed (I7).
    pub(super) fn remove_part(&mut self, place: Place, step: &Step) {
        let (this, other) = match place {
            Place::Pgdata => (&self.pgdata, &self.beside),
            Place::Beside => (&self.beside, &self.pgdata),
        };
        if this.whole {
            let copy = matches!(
                step,
                Step::Copy { .. } | Step::Rewind { .. } | Step::FromOutside { rewind: true, .. }
            );
            // An operator who has a cluster initialised has said what that means.
            let ordered = matches!(step, Step::Initialize { .. });
            // It has its name last: until then it is the server outside that has the data.
            let unnamed = matches!(
                step,
                Step::FromOutside { db, rewind: false, .. } if this.data.owner != *db
            );
            let allowed = other.whole || (copy && this.given_up) || ordered || unnamed;
            assert!(allowed, "the only good copy is removed by {step:?}");
        }
        assert!(this.identity.is_none(), "removed while it says it is whole");
        let folder = self.folder(place);
        folder.whole = false;
    }

    /// What was replaced goes only when what replaced it was seen to run.
    pub(super) fn check_proof(&self) {
        let keeper = self.keeper.as_ref().expect("a keeper");
        let runs = matches!(keeper.facts().health, Health::Running(_));
        assert!(runs, "the new copy was never proven");
    }

    /// Data are rewound where they are only while the primary has every acknowledged commit (I7), and
    /// only where that can come to something.
    pub(super) fn check_rewind(&self) {
        let keeper = self.keeper.as_ref().expect("a keeper");
        let document = keeper.document().expect("a document");
        let primary = document.data.primary().expect("a primary");
        let status = &primary.status;
        assert!(status.healthy, "rewound while the primary is not healthy");
        assert_eq!(
            status.current_generation, primary.generation,
            "rewound while the primary has not done what it was told"
        );
        let data = &self.pgdata.data;
        assert!(
            self.pgdata.whole && !data.no_hints,
            "cannot be rewound: {data:?}"
        );
        assert_ne!(data.timeline, status.timeline_id.0, "nothing would be seen");
        assert!(self.server.is_none() && !self.orphans, "in use");
    }

    /// I8: whoever becomes writable was named primary by a document that was read after it was last
    /// writable.
    pub(super) fn check_permission(&self, what: &str) {
        let keeper = self.keeper.as_ref().expect("a keeper");
        let document = keeper.document().expect("a document");
        let db = document.data.db_of(keeper.uid()).expect("a db");
        let initialising = db.spec.init_mode == Some(InitMode::New);
        let primary = document.data.primary().map(|primary| &primary.uid);
        assert!(
            primary == Some(&db.uid) || initialising,
            "{what}: {} is not the primary",
            db.uid
        );
        assert_eq!(db.uid, self.pgdata.data.owner, "{what}: other data");
        assert!(
            document.sent_at.since_boot() > self.writable_until,
            "{what}: the document was read before the instance ended"
        );
        let admitted = document.data.keepers.get(US);
        let admitted = admitted.map(|keeper| keeper.status.boot_uuid.clone());
        let asked = self.published.as_ref().map(|info| info.boot_uuid.clone());
        assert_eq!(admitted, asked, "{what}: not admitted");
        let starts = admitted.is_some_and(|boot| boot.as_str().starts_with(&boot_name(self.boot)));
        assert!(starts, "{what}: another start was admitted");
    }

    /// What the keeper would believe of PGDATA, were it started now, is so.
    pub(super) fn check_belief(&self) {
        let folder = &self.pgdata;
        if folder.content != Content::Cluster {
            return;
        }
        let noted = self.state.as_ref().filter(|state| !state.initializing);
        let believed = folder
            .identity
            .as_ref()
            .or_else(|| noted.map(|state| &state.uid));
        if let Some(uid) = believed {
            let log = self.log.join("\n");
            assert!(folder.whole, "{uid} is taken for whole\n{log}");
            assert_eq!(*uid, folder.data.owner, "taken for another\n{log}");
        }
    }
}
