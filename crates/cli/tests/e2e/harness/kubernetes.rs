//! Kubernetes, as far as the daemons see of it: its API server, and the pods they run in.

#[path = "../../../../../testing/kube_api.rs"]
#[allow(
    dead_code,
    reason = "its other ways to be unwell are for the store's own tests"
)]
mod kube_api;

use std::path::{Path, PathBuf};

use kube_api::ApiServer;

use super::{free_port, process};

/// An API server on loopback.
pub(crate) struct Kubernetes {
    server: ApiServer,
    /// By which the components reach it.
    pub(crate) kubeconfig: PathBuf,
}

impl Kubernetes {
    /// Starts it with nothing in it; its files go to this folder.
    pub(crate) fn start_new(folder: &Path) -> Self {
        let server = ApiServer::start(folder, free_port(), free_port());
        let token = Some(kube_api::access::ADMIN);
        let kubeconfig = server.kubeconfig("cluster", &server.secure_endpoint(), token);
        process::give(&kubeconfig);
        Self { server, kubeconfig }
    }

    /// Makes the pod of a component of the cluster `test`; the component is not started by that.
    pub(crate) fn make_pod(&self, name: &str, role: &str) {
        self.server
            .make_pod(name, &format!("stolon-{role}"), "test");
    }

    /// It answers nothing until it thaws.
    pub(crate) fn freeze(&self) {
        self.server.freeze();
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.server.thaw();
    }
}
