//! The same cluster told otherwise: its lists the other way round, its members by other names.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stolon_core::model::{ClusterData, DbUid, KeeperUid, ProxyUid, wire};
use stolon_core::sentinel::decide::decide;
use stolon_core::sentinel::observe::View;

/// How the decision differs when the same is told otherwise; none: by nothing but names and order.
pub(crate) fn difference(data: &ClusterData, view: &View) -> Option<String> {
    let next = decide(data, view).next;
    let turned = decide(&turned(data), view).next;
    if sorted(&turned) != sorted(&next) {
        return Some(format!("turned: {turned:#?}\nand not {next:#?}"));
    }
    let names = Names::of(data, view);
    let renamed = decide(&names.data(data), &names.view(view)).next;
    let expected = names.data(&next);
    (renamed != expected).then(|| format!("renamed: {renamed:#?}\nand not {expected:#?}"))
}

/// Every list of a document the other way round.
fn turned(data: &ClusterData) -> ClusterData {
    let mut data = data.clone();
    data.proxy.spec.enabled_proxies.reverse();
    with_lists(&mut data, |list| list.reverse());
    data
}

fn sorted(data: &ClusterData) -> ClusterData {
    let mut data = data.clone();
    data.proxy.spec.enabled_proxies.sort();
    with_lists(&mut data, |list| list.sort());
    data
}

fn with_lists(data: &mut ClusterData, change: impl Fn(&mut Vec<DbUid>)) {
    for db in data.dbs.values_mut() {
        let lists = [
            &mut db.spec.followers,
            &mut db.spec.synchronous_standbys,
            &mut db.status.synchronous_standbys,
        ];
        lists
            .into_iter()
            .filter_map(|list| list.0.as_mut())
            .for_each(&change);
    }
}

/// The names that get a `~` at their end. It keeps their order, among each other and beside the
/// names that a decision gives, as long as none of them begins with another.
struct Names(BTreeSet<String>);

impl Names {
    fn of(data: &ClusterData, view: &View) -> Self {
        let mut names = BTreeSet::new();
        names.extend(data.keepers.keys().map(ToString::to_string));
        names.extend(view.keepers.keys().map(ToString::to_string));
        names.extend(data.dbs.keys().map(ToString::to_string));
        names.extend(view.proxies.keys().map(ToString::to_string));
        Self(names)
    }

    fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for name in &self.0 {
            text = text.replace(&format!("\"{name}\""), &format!("\"{name}~\""));
        }
        text
    }

    fn data(&self, data: &ClusterData) -> ClusterData {
        let text = String::from_utf8(wire::write(data).expect("written")).expect("a text");
        let read = wire::read_cluster_data(self.text(&text).as_bytes());
        read.expect("read").expect("a cluster")
    }

    /// Anything that is told in a document or by a member.
    fn told<T: Serialize + DeserializeOwned>(&self, thing: &T) -> T {
        let text = serde_json::to_string(thing).expect("written");
        serde_json::from_str(&self.text(&text)).expect("read")
    }

    fn view(&self, view: &View) -> View {
        let mut renamed = view.clone();
        renamed.keepers = (view.keepers.iter())
            .map(|(uid, seen)| {
                let mut seen = seen.clone();
                seen.info = seen.info.map(|info| self.told(&info));
                (self.told::<KeeperUid>(uid), seen)
            })
            .collect();
        renamed.dbs = (view.dbs.iter())
            .map(|(uid, seen)| {
                let mut seen = seen.clone();
                seen.report = seen.report.map(|report| self.told(&report));
                (self.told::<DbUid>(uid), seen)
            })
            .collect();
        renamed.proxies = (view.proxies.iter())
            .map(|(uid, seen)| (self.told::<ProxyUid>(uid), seen.clone()))
            .collect();
        renamed.gave_up = view.gave_up.iter().map(|uid| self.told(uid)).collect();
        renamed
    }
}
